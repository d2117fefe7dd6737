"""LangChain: an answer, a stream, and a tool that the model calls.

pip install langchain-openai
OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=sg-… python langchain_chat.py
"""

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="auto", max_tokens=60, default_headers={"X-Workflow": "weather"})


@tool
def weather(city: str) -> str:
    """The weather in a city now."""
    return f"{city}: sunny, 21 degrees"


print("answer:", model.invoke("Name three rivers.").content)

print("stream: ", end="")
for chunk in model.stream("Name three lakes."):
    print(chunk.content, end="", flush=True)
print()

conversation = [HumanMessage("What is the weather in Paris?")]
asked = model.bind_tools([weather]).invoke(conversation)
conversation.append(asked)
for call in asked.tool_calls:
    print("tool:", call["name"], call["args"])
    conversation.append(weather.invoke(call))
print("answer with the tool:", model.bind_tools([weather]).invoke(conversation).content)
