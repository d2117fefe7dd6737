"""The latency page: how long first tokens, tokens and whole answers take, where and when."""
