#!/bin/sh
# The run that this project is measured by: 50 requests, 5 at a time, 180 s each, with hey
# (https://github.com/rakyll/hey; Debian and Ubuntu: apt-get install hey).
#
#   loadtest/hey/seed.sh http://HOST[:PORT]      HOST_HEADER=name.default.example.com for a gateway's address
#
# On Knative, begin with zero pods: the cold start is part of what is measured.
set -eu
if [ $# -ne 1 ]; then
    echo "usage: [HOST_HEADER=name] $0 http://HOST[:PORT]" >&2
    exit 2
fi
if ! command -v hey >/dev/null; then
    echo "hey is not installed: apt-get install hey, or use 'python -m loadtest run $1'." >&2
    exit 2
fi
exec hey -n 50 -c 5 -t 180 -m POST -T application/json ${HOST_HEADER:+-host "$HOST_HEADER"} \
    -d '{"prompt": "pretty dog"}' "${1%/}/sdapi/v1/txt2img"
