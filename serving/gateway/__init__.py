"""The gateway: Envoy in front of one TorchServe or of several, as deploy/gateway/ configures it."""
