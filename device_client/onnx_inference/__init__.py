"""Prediction and evaluation with an exported ONNX model, by onnxruntime: nothing here imports torch."""
