"""The handlers of the HTTP API. `server.app` lists their routes."""
