//! The cryptography of TLS in this process: ring's, for it builds with a C compiler alone.

/// Makes it known to rustls. Without it the making of an HTTP client panics, so it comes before each; more than once does
/// nothing.
pub fn provide() {
    // Refused only where another one was provided before, which serves as well.
    drop(rustls::crypto::ring::default_provider().install_default());
}
