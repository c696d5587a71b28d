"""lm-eval tasks: questions with known answers, put to a model through lm-evaluation-harness."""
