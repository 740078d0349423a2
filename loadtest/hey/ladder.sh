#!/bin/sh
# How a deployment answers to more users at a time: 1, 2, 5 and 10, ten requests for each user.
#
#   loadtest/hey/ladder.sh http://HOST[:PORT] [DIRECTORY]     HOST_HEADER=name for a gateway's address
#
# Writes hey's report of each step to DIRECTORY (default: .) as ladder-N.txt and prints the totals. Between steps
# it waits PAUSE seconds (default 0); set it longer than the scale-down delay to begin each step with zero pods.
set -eu
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: [HOST_HEADER=name] [PAUSE=seconds] $0 http://HOST[:PORT] [DIRECTORY]" >&2
    exit 2
fi
if ! command -v hey >/dev/null; then
    echo "hey is not installed: apt-get install hey." >&2
    exit 2
fi
directory=${2:-.}
mkdir -p "$directory"
for users in ${LADDER:-1 2 5 10}; do
    [ -z "${before:-}" ] || sleep "${PAUSE:-0}"
    before=$users
    hey -n $((users * 10)) -c "$users" -t 180 -m POST -T application/json ${HOST_HEADER:+-host "$HOST_HEADER"} \
        -d '{"prompt": "pretty dog"}' "${1%/}/sdapi/v1/txt2img" >"$directory/ladder-$users.txt"
    printf '%s at a time:' "$users"
    sed -n 's/^  \(Total\|Average\|Slowest\|Requests\/sec\):[[:space:]]*/ \1 /p' "$directory/ladder-$users.txt" | tr '\n' ','
    printf ' statuses'
    sed -n 's/^  \(\[[0-9]*\]\)[[:space:]]*\(.*\)/ \1 \2/p' "$directory/ladder-$users.txt" | tr '\n' ';'
    echo
done
