#!/usr/bin/env bash
# A picture with nothing but a shell: examples/curl.sh [http://127.0.0.1:7860] [dog.png]
set -euo pipefail
server=${1:-http://127.0.0.1:7860}
file=${2:-dog.png}
curl -fsS "$server/imagine" -G --data-urlencode "prompt=pretty dog" -d img_size=512 -o "$file"
echo "$file"
