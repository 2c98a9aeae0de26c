#!/bin/sh
# nvcc, with what ptxas says of each kernel (registers, spills) kept beside the object as OBJECT.ptxas.
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
[ -n "$object" ] || exec "$@"
"$@" -Xptxas -v 2>"$object.stderr"
status=$?
grep -E '^ptxas info|bytes stack frame' "$object.stderr" >"$object.ptxas"
grep -vE '^ptxas info|bytes stack frame' "$object.stderr" >&2
rm -f "$object.stderr"
exit $status
