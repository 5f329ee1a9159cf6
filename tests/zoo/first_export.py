"""Sets up torch's exporter by exporting a tiny network, which takes three seconds of CPU time.

The fork server imports this module, so that programs forked from it do not each repeat that. The result is not run with
onnxruntime, which would start a thread: a process with threads cannot be forked safely.
"""

import torch

from device_client.to_onnx.tracing import Flat, trace

_LINE = Flat(
    torch.nn.Linear(1, 1), lambda network, inputs: network(inputs), torch.zeros(2, 1), main="logits", taken=("inputs",)
)
_LINE(torch.zeros(2, 1))
trace(_LINE, {"inputs": torch.zeros(2, 1)}, any_batch_size=True)
