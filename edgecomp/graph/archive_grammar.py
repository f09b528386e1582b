"""What a program in an archive of torch.export may say.

The values of the JSON are walked along torch's own schema, and come out anew: fields that the schema does not know are
left out, types must be exact, and every text needs a rule. A text without a rule is refused, so a field that a later
torch adds is looked at before it is let through.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import json
import keyword
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from torch._export.serde import schema
from torch._export.serde.serialize import deserialize_scalar_type
from torch._export.serde.union import _Union


class Refused(Exception):
    """What is wrong, and where."""


# --- texts ------------------------------------------------------------------------------------------------

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,400}")
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")  # parts of digits are those of nn.Sequential
_SYMBOL = re.compile(r"(s|u|us|z|zf|zuf)\d{1,9}")
_WORD = re.compile(r"[A-Za-z0-9_ ,.>-]{0,200}")
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,400}")
_ATEN = re.compile(r"torch\.ops\.(aten|prims|quantized_decomposed|edgecomp)\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+")
_OTHERS = {
    *(f"torch.ops.higher_order.{name}" for name in ("cond", "map_impl", "scan", "while_loop")),
    *(f"torch.ops.higher_order.wrap_with_{name}" for name in ("autocast", "set_grad_enabled")),
    *(f"_operator.{name}" for name in ("add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lshift", "lt")),
    *(f"_operator.{name}" for name in ("mod", "mul", "ne", "neg", "or_", "pos", "pow", "rshift", "sub", "truediv")),
    *(f"torch.sym_{name}" for name in ("float", "int", "ite", "max", "min", "not", "sqrt")),
    "math.trunc",
}
# Arguments of operators that are words. Not among them: names of files, which aten::save and aten::from_file take.
_WORDS = {"UPLO", "approximate", "driver", "equation", "indexing", "mode", "norm", "ord"}
_WORDS |= {"pad_mode", "padding", "padding_mode", "reduce", "reduction", "rounding_mode", "side"}


def is_name(text: str) -> bool:
    """Whether a text can be a name in generated code, and no more."""
    return bool(_NAME.fullmatch(text)) and not keyword.iskeyword(text) and not text.startswith("__")


def value_bytes(dtype: int) -> int:
    """Bytes of a value of a dtype of the schema."""
    try:
        return deserialize_scalar_type(schema.ScalarType(dtype)).itemsize
    except KeyError as error:
        raise Refused(f"a tensor of dtype {dtype}") from error


def _name(text: str) -> bool:
    return text == "" or is_name(text)


def _path(text: str) -> bool:
    parts = text.split(".")
    return len(text) <= 2000 and bool(_PATH.fullmatch(text)) and not any(part.startswith("__") for part in parts)


def _operator(text: str) -> bool:
    return text in _OTHERS or bool(_ATEN.fullmatch(text))


_RULES: dict[str, Callable[[str], Any]] = {
    "Device.type": "cpu".__eq__,
    "SymExpr.expr_str": lambda text: True,  # see `_expression`
    "SymIntArgument.as_name": is_name,
    "SymFloatArgument.as_name": is_name,
    "SymBoolArgument.as_name": is_name,
    "TensorArgument.name": _name,
    "TokenArgument.name": is_name,
    "GraphArgument.name": is_name,
    "Argument.as_string": lambda text: len(text) <= 2000,  # see `_node`
    "Argument.as_strings": _WORD.fullmatch,
    "Argument.as_operator": _operator,
    "Argument.as_string_to_argument{}": is_name,
    "NamedArgument.name": lambda text: _name(text) or text in ("self", "from", "lambda"),
    "Node.target": _operator,
    "Node.name": _name,
    "Graph.tensor_values{}": is_name,
    "Graph.sym_int_values{}": is_name,
    "Graph.sym_bool_values{}": is_name,
    "Graph.sym_float_values{}": is_name,
    "Graph.custom_obj_values{}": lambda text: False,
    "InputToConstantInputSpec.name": is_name,
    "ConstantValue.as_string": _WORD.fullmatch,
    "InputToParameterSpec.parameter_name": _path,
    "InputToBufferSpec.buffer_name": _path,
    "InputToTensorConstantSpec.tensor_constant_name": _path,
    "BufferMutationSpec.buffer_name": _path,
    "ParameterMutationSpec.parameter_name": _path,
    "UserInputMutationSpec.user_input_name": is_name,
    "ModuleCallSignature.in_spec": lambda text: True,  # see `_tree`
    "ModuleCallSignature.out_spec": lambda text: True,
    "ModuleCallSignature.forward_arg_names": is_name,
    "ModuleCallEntry.fqn": "".__eq__,
    "ExportedProgram.opset_version{}": is_name,
    "ExportedProgram.range_constraints{}": _SYMBOL.fullmatch,
    "ExportedProgram.verifiers": {"", "ATEN", "TRAINING"}.__contains__,
    "ExportedProgram.torch_version": re.compile(r"[0-9A-Za-z.+<=-]{1,60}").fullmatch,
    "PayloadMeta.path_name": re.compile(r"(weight|tensor)_\d{1,9}").fullmatch,
    "PayloadConfig.config{}": _path,
}

# Not needed to compute what the program computes. Guards are code.
_LEFT_OUT = {"GraphModule.metadata", "GraphModule.treespec_namedtuple_fields", "ExportedProgram.guards_code"}


# --- the walk along the schema ----------------------------------------------------------------------------


def program(data: Any) -> Any:
    """The checked value of models/model.json.

    Raises:
        Refused: it is not a plain program.
    """
    if isinstance(data, dict) and isinstance(data.get("graph_module"), dict):  # the calls of inner modules: names only
        calls = data["graph_module"].get("module_call_graph")
        data["graph_module"]["module_call_graph"] = calls[:1] if isinstance(calls, list) else calls
    try:
        clean = checked(schema.ExportedProgram, data, "models/model.json")
        _require_declared(clean, set(clean["range_constraints"]))
    except RecursionError as error:
        raise Refused("models/model.json is nested too deeply") from error
    return clean


def checked(kind: Any, data: Any, where: str, rule: str = "") -> Any:
    """`data` as a value of a type of torch's schema, made anew.

    Args:
        kind: a class of the schema, a list, dict or union of such, or a plain type.
        where: the place, for messages. rule: the name of the field, which the rule for texts is kept under.

    Raises:
        Refused: it is of another type, or a text in it breaks its rule.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if data is None else checked(inner[0], data, where, rule)
    if origin is list and isinstance(data, list):
        return [checked(inner[0], value, where, rule) for value in data]
    if origin is dict and isinstance(data, dict):
        for key in data:
            _text(key, where, f"{rule}{{}}")
        return {key: checked(inner[1], value, f"{where}: {key}"[:300], rule) for key, value in data.items()}
    if isinstance(kind, type) and issubclass(kind, _Union) and isinstance(data, dict):
        return _variant(kind, data, where)
    if dataclasses.is_dataclass(kind) and isinstance(data, dict):
        return _fields(kind, data, where)
    if kind is str and isinstance(data, str):
        return _text(data, where, rule)
    return _plain(kind, data, where)


def _fields(kind: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    values, hints = {}, typing.get_type_hints(kind, globalns=vars(schema))
    for field in dataclasses.fields(kind):
        name = f"{kind.__name__}.{field.name}"
        if name in _LEFT_OUT or (field.name not in data and field.default is not dataclasses.MISSING):
            continue
        if field.name not in data and field.default_factory is not dataclasses.MISSING:
            continue
        if field.name not in data:
            raise Refused(f"{where} lacks {field.name}")
        if name == "Node.metadata":
            values[field.name] = _metadata(data[field.name], where)
        else:
            values[field.name] = checked(hints[field.name], data[field.name], where, name)
    if kind is schema.Node:
        _node(values, where)
    if kind is schema.ModuleCallSignature:
        values.update(in_spec=_tree_text(values["in_spec"], where), out_spec=_tree_text(values["out_spec"], where))
    return values


def _variant(kind: Any, data: dict[str, Any], where: str) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, globalns=vars(schema))
    if len(data) != 1 or (name := next(iter(data))) not in hints:
        raise Refused(f"{where} is none of {', '.join(hints)}"[:300])
    return {name: checked(hints[name], data[name], where, f"{kind.__name__}.{name}")}


def _text(text: str, where: str, rule: str) -> str:
    if rule not in _RULES or not _RULES[rule](text):
        raise Refused(f"{where}: {rule or 'a text'} is {text[:80]!r}")
    return text


def _plain(kind: Any, data: Any, where: str) -> Any:
    """A number, or true or false, of exactly its type."""
    if kind is float and (type(data) in (int, float) or data in ("Infinity", "-Infinity", "NaN")):
        return data
    if kind is bool and type(data) is bool:
        return data
    if isinstance(kind, type) and issubclass(kind, enum.IntEnum) and type(data) is int and data in list(kind):
        return data
    if kind is int and type(data) is int and abs(data) < 2**63:
        return data
    raise Refused(f"{where}: {str(data)[:80]!r} is no {getattr(kind, '__name__', kind)}")


# --- what the schema holds as text ------------------------------------------------------------------------


def _node(node: dict[str, Any], where: str) -> None:
    """Words are for the arguments that take words."""
    aten = node["target"].startswith("torch.ops.") and ".higher_order." not in node["target"]
    for argument in node["inputs"]:
        if argument["name"] == "assert_msg" and "as_string" in argument["arg"]:
            argument["arg"] = {"as_string": ""}
            continue
        text = argument["arg"].get("as_string")
        if text is not None and not ((argument["name"] in _WORDS or not aten) and _WORD.fullmatch(text)):
            raise Refused(f"{where}: {node['target']} with {argument['name']}={text[:80]!r}")
        if aten and "as_strings" in argument["arg"]:
            raise Refused(f"{where}: {node['target']} with a list of texts")


def _metadata(data: Any, where: str) -> dict[str, str]:
    """Of what is noted at an operator only the modules that it is called in: `key,path,type;…`."""
    if not isinstance(data, dict):
        raise Refused(f"{where}: the metadata are no dict")
    entries = [entry.split(",") for entry in str(data.get("nn_module_stack") or "").split(";") if entry]
    good = [(e[1].removeprefix("L['self'].").removeprefix("L['self']"), e[2]) for e in entries if len(e) == 3]
    kept = [(path, kind) for path, kind in good if (path == "" or _path(path)) and _TYPE.fullmatch(kind)]
    return {"nn_module_stack": ";".join(f"m{i},{path},{kind}" for i, (path, kind) in enumerate(kept))} if kept else {}


_TREES = {"builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def _tree_text(text: str, where: str) -> str:
    """The structure of inputs or outputs: tuples, lists and dicts whose keys are names."""
    try:
        protocol, tree = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise Refused(f"{where}: {text[:80]!r} is no structure") from error
    if protocol != 1:
        raise Refused(f"{where}: a structure of protocol {str(protocol)[:20]}")
    return json.dumps([1, _tree(tree, where)])


def _tree(tree: Any, where: str) -> dict[str, Any]:
    kind, context, children = (tree.get(k) for k in ("type", "context", "children_spec")) if tree else (0, 0, 0)
    if kind is None and context is None and children == []:
        return {"type": None, "context": None, "children_spec": []}
    if kind not in _TREES or not isinstance(children, list):
        raise Refused(f"{where}: a structure of {str(kind)[:80]!r}; tuples, lists and dicts are read")
    keys = json.loads(context) if isinstance(context, str) and len(context) < 100_000 else None
    named = kind in ("builtins.dict", "collections.OrderedDict")
    if named and not (isinstance(keys, list) and all(isinstance(key, str) and is_name(key) for key in keys)):
        raise Refused(f"{where}: a dict with keys {str(context)[:80]!r}")
    if not named and keys is not None:
        raise Refused(f"{where}: a structure with {str(context)[:80]!r}")
    return {"type": kind, "context": json.dumps(keys), "children_spec": [_tree(child, where) for child in children]}


# --- sizes that are expressions ---------------------------------------------------------------------------

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.FloorDiv)
_CALLS = {"Add", "Mul", "FloorDiv", "CeilDiv", "Mod", "PythonMod", "Max", "Min", "And", "Or", "Not", "Equality"}
_CALLS |= {"Unequality", "GreaterThan", "LessThan", "StrictGreaterThan", "StrictLessThan"}  # as sympy's srepr writes
_MOST_TEXT, _MOST_POWER = 4000, 8


def _require_declared(data: Any, symbols: set[str]) -> None:
    """Every expression in a checked program is made of integers and declared symbols."""
    if isinstance(data, dict):
        if "expr_str" in data:
            data["expr_str"] = expression(data["expr_str"], symbols)
        for value in data.values():
            _require_declared(value, symbols)
    elif isinstance(data, list):
        for value in data:
            _require_declared(value, symbols)


def expression(text: str, symbols: set[str]) -> str:
    """A size: integers, declared symbols, and + − * // of them, also in the notation of sympy's srepr. It is written
    anew from its parts.

    Raises:
        Refused: it is anything else.
    """
    try:
        tree = ast.parse(text[: _MOST_TEXT + 1].strip(), mode="eval").body if len(text) <= _MOST_TEXT else None
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        tree = None
    if tree is None or not _is_size(tree, symbols):
        raise Refused(f"the size {text[:80]!r} is no sum, product or quotient of integers and declared symbols")
    return ast.unparse(tree)


def _is_size(node: ast.expr, symbols: set[str]) -> bool:
    if isinstance(node, ast.Constant):
        return type(node.value) is int and abs(node.value) < 2**63
    if isinstance(node, ast.Name):
        return node.id in symbols or node.id in ("true", "false")
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_size(node.operand, symbols)
    if isinstance(node, ast.BinOp):
        sides = _is_size(node.left, symbols) and _is_size(node.right, symbols)
        return sides and (isinstance(node.op, _OPERATORS) or (isinstance(node.op, ast.Pow) and _is_power(node.right)))
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and _is_call(node.func.id, node, symbols)


def _is_call(name: str, node: ast.Call, symbols: set[str]) -> bool:
    """One of those that srepr writes, with their own arguments."""
    arguments = node.args
    if name == "Symbol":
        known = len(arguments) == 1 and isinstance(arguments[0], ast.Constant) and arguments[0].value in symbols
        return known and all(k.arg in _ASSUMPTIONS and _is_truth(k.value) for k in node.keywords)
    if node.keywords:
        return False
    if name == "Integer":
        return len(arguments) == 1 and _is_integer(arguments[0])
    if name == "Pow":
        return len(arguments) == 2 and _is_size(arguments[0], symbols) and _is_power(arguments[1])
    return name in _CALLS and all(_is_size(argument, symbols) for argument in arguments)


_ASSUMPTIONS = {"positive", "integer", "nonnegative", "real"}


def _is_truth(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, bool)


def _is_integer(node: ast.expr) -> bool:
    return _is_size(node.operand if isinstance(node, ast.UnaryOp) else node, set()) and not isinstance(node, ast.Call)


def _is_power(node: ast.expr) -> bool:
    """A small power: 9**9**9 would not end."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Integer" and node.args:
        node = node.args[0]
    return isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= _MOST_POWER
