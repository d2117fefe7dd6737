"""OpenAI's own client: an answer, a stream, and a task whose end is reported.

pip install openai
OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… python openai_chat.py
"""

import uuid

from openai import OpenAI

client = OpenAI()
task = {"X-Task-Id": str(uuid.uuid4()), "X-Workflow": "rivers"}  # what these two calls are a part of

answer = client.chat.completions.with_raw_response.create(
    model="auto",  # or auto/support, a target's name, or the name your app uses today
    messages=[{"role": "user", "content": "Name three rivers."}],
    max_tokens=60,
    extra_headers=task,
)
print("answer:", answer.parse().choices[0].message.content)
print("by:", answer.headers["x-sparkgate-target"], "as", answer.headers["x-sparkgate-shape"])

stream = client.chat.completions.create(
    model="auto",
    messages=[{"role": "user", "content": "Name three lakes."}],
    max_tokens=60,
    stream=True,
    extra_headers=task,
)
print("stream: ", end="")
for event in stream:
    if event.choices and event.choices[0].delta.content:
        print(event.choices[0].delta.content, end="", flush=True)
print()

outcome = client.post(f"/tasks/{task['X-Task-Id']}/outcome", body={"status": "completed"}, cast_to=object)
print("task:", outcome["status"])
