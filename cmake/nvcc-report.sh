#!/bin/sh
# nvcc, with two reports kept beside the object: OBJECT.ptxas, what ptxas says of each kernel (registers, spills), and
# OBJECT.ptx, the kernels' PTX for the last architecture.
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
[ -n "$object" ] || exec "$@"
mkdir -p "$object.keep"
"$@" -Xptxas -v -keep -keep-dir "$object.keep" 2>"$object.stderr"
status=$?
grep -E '^ptxas info|bytes stack frame' "$object.stderr" >"$object.ptxas"
grep -vE '^ptxas info|bytes stack frame' "$object.stderr" >&2
for ptx in "$object.keep"/*.ptx; do
  [ -e "$ptx" ] && mv "$ptx" "$object.ptx"
done
rm -rf "$object.stderr" "$object.keep"
exit $status
