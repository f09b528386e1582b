"""`report.junit.xml`, which CI systems show: one test case per limit. What could not be decided is an error, so that it
is never green."""

from __future__ import annotations

from xml.etree import ElementTree

from ..records import Report
from . import figures


def report(result: Report) -> str:
    """The XML text."""
    judged = figures.limits(result)
    verdicts = [limit.verdict for limit in judged]
    counts = {"tests": len(judged), "failures": verdicts.count("fail"), "errors": verdicts.count("inconclusive")}
    suites = ElementTree.Element("testsuites", {key: str(value) for key, value in counts.items()})
    attributes = {"name": f"edgecomp {figures.heading(result)}", **suites.attrib}
    suite = ElementTree.SubElement(suites, "testsuite", attributes)
    for limit in judged:
        name = f"{limit.name} at most {limit.limit}"
        case = ElementTree.SubElement(suite, "testcase", classname=f"edgecomp.{result.model.name}", name=name)
        if limit.verdict == "pass":
            ElementTree.SubElement(case, "system-out").text = limit.sentence
        else:
            kind = "failure" if limit.verdict == "fail" else "error"
            ElementTree.SubElement(case, kind, message=limit.sentence, type=limit.verdict)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"
