"""The service over HTTP: one file a protocol. Holds no logic; each route calls `lmaas.service`."""
