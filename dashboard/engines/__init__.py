"""The engine page: what speculation yields, what a step costs, how load and tail latency go together."""
