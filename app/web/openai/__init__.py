"""The API in OpenAI's form: what its requests, answers and errors mean in terms of tasks."""
