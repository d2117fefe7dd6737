"""The self-hosted inference engine: one model, one process, OpenAI's HTTP surface.

The files beside this one compute (model, cache, scheduler, sampler, loop) and know nothing of HTTP;
`engine.http` talks to clients and knows nothing of tensors. Nothing here imports the gateway.
"""
