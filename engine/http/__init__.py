"""The engine's HTTP side: OpenAI's wire format in, sequences to the loop, events back to clients."""
