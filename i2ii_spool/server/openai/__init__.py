"""OpenAI's images API (docs/openai.md): its clients edit pictures here unmodified.

schemas      the fields of a request, and which are refused or ignored
translate    such a request as ours, and a job as its answer
answers      pictures in base64, encoded as they are sent
waiting      the clients that wait, and what becomes of the job of one that goes away
routes       `POST /v1/images/edits`, `GET /v1/models`
"""
