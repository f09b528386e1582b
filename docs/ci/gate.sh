#!/bin/sh
# Builds a model, judges it by its limits and by a baseline, and writes a comment for the pull request:
#
#   gate.sh OUT BASELINE MODEL [options of edgecomp build]
#
# OUT: folder of the build; OUT/comment.md is the comment. BASELINE: a report.json that was kept, or a path where there is none yet.
# Exit code: that of edgecomp, see docs/limits.md: 1 if a limit is missed or a figure is worse, 5 if one cannot be decided.
set -u
[ $# -ge 3 ] || { echo "usage: gate.sh OUT BASELINE MODEL [options of edgecomp build]" >&2; exit 2; }
out=$1 baseline=$2
shift 2

edgecomp build "$@" -o "$out"
verdict=$?
case $verdict in 0 | 1 | 5) ;; *) exit $verdict ;; esac  # no build, no comment

changed=0
cp "$out/report.md" "$out/comment.md" || exit 3
if [ -f "$baseline" ]; then
  edgecomp compare "$baseline" "$out" > "$out/compared.txt"
  changed=$?
  printf '\n## Against the baseline\n\n```\n%s\n```\n' "$(cat "$out/compared.txt")" >> "$out/comment.md"
fi
[ $verdict -eq 1 ] || [ $changed -eq 1 ] && exit 1
[ $changed -gt $verdict ] && exit $changed
exit $verdict
