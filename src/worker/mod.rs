//! One supervised worker.
