#!/bin/sh
# curl: an answer with its headers, a stream, and a task whose end is reported.
#
#     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… sh curl.sh
set -eu

task="task-$(date +%s)-$$"

echo 'An answer:'
curl -sSi --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
    -H "X-Task-Id: $task" -H 'X-Workflow: rivers' \
    -d '{"model": "auto", "max_tokens": 60, "messages": [{"role": "user", "content": "Name three rivers."}]}'

printf '\n\nA stream:\n'
curl -sSN --fail-with-body "$OPENAI_BASE_URL/chat/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \
    -H "X-Task-Id: $task" -H 'X-Workflow: rivers' \
    -d '{"model": "auto", "max_tokens": 60, "stream": true, "messages": [{"role": "user", "content": "Name three lakes."}]}'

printf '\nHow the task ended:\n'
curl -sS --fail-with-body "$OPENAI_BASE_URL/tasks/$task/outcome" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' -d '{"status": "completed"}'
echo
