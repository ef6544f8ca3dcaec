"""Networks: students and teachers by name or from a file; what their inputs and classes mean."""
