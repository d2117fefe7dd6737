"""Anthropic's own client, whatever the target speaks: an answer and a stream.

pip install anthropic
ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_API_KEY=sg-… python anthropic_messages.py
"""

from anthropic import Anthropic

client = Anthropic()

answer = client.messages.with_raw_response.create(
    model="auto",
    max_tokens=60,
    messages=[{"role": "user", "content": "Name three rivers."}],
)
print("answer:", answer.parse().content[0].text)
print("by:", answer.headers["x-sparkgate-target"], "as", answer.headers["x-sparkgate-shape"])

question = {"role": "user", "content": "Name three lakes."}
with client.messages.stream(model="auto", max_tokens=60, messages=[question]) as stream:
    print("stream: ", end="")
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
