"""LlamaIndex: an answer and a stream.

Its OpenAI class asks for a model that it knows the context length of. The gateway takes such a name too: it means
what `models:` in sparkgate.yaml says, and by default `auto`.

    pip install llama-index-core llama-index-llms-openai
    OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… python llamaindex_chat.py
"""

import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI

llm = OpenAI(
    model="gpt-4o",
    api_base=os.environ["OPENAI_BASE_URL"],
    max_tokens=60,
    default_headers={"X-Workflow": "rivers"},
)

print("answer:", llm.chat([ChatMessage(role="user", content="Name three rivers.")]).message.content)

print("stream: ", end="")
for piece in llm.stream_chat([ChatMessage(role="user", content="Name three lakes.")]):
    print(piece.delta, end="", flush=True)
print()
