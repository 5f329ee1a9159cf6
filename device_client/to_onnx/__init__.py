"""Networks as ONNX models: any inputs and outputs, traced by torch and compared with torch's results."""
