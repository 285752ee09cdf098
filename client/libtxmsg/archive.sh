#!/bin/sh
# archive.sh COMPILER... OUTPUT DIRECTORY WHOLE.a PART.a...
# One archive of one object: all of WHOLE, what it needs of the PARTs, and only the exported symbols global.
set -eu
compiler=
while [ "${1##*.}" != a ]; do compiler="$compiler $1"; shift; done
output=$1 directory=$2 whole=$3
shift 3
mkdir -p "$directory"
# shellcheck disable=SC2086
$compiler -r -nostdlib -o "$directory/libtxmsg.o" -Wl,--whole-archive "$whole" -Wl,--no-whole-archive \
    -Wl,--start-group "$@" -Wl,--end-group
objcopy --localize-hidden "$directory/libtxmsg.o"
rm -f "$output"
ar rcs "$output" "$directory/libtxmsg.o"
