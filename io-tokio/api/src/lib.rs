//! The REST API: models, server, client.
