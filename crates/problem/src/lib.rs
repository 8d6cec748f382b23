//! The catalogue of problem types: one list of the errors that every API of the system answers with (RFC 9457).
