#!/bin/sh
# `llm`, Simon Willison's command: an answer from the command line.
#
#     pip install llm
#     OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… sh llm_cli.sh
set -eu

models="$(dirname "$(llm logs path)")/extra-openai-models.yaml"
if ! grep -qs 'model_id: sparkgate' "$models"; then
    cat >>"$models" <<EOF
- model_id: sparkgate
  model_name: auto
  api_base: $OPENAI_BASE_URL
  api_key_name: sparkgate
  headers: {X-Workflow: rivers}
EOF
fi

llm -m sparkgate --key "$OPENAI_API_KEY" 'Name three rivers.'
llm -m sparkgate --key "$OPENAI_API_KEY" --no-stream 'Name three lakes.'
