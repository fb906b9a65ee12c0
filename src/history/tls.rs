//! TLS to a server that must be who it says it is: its certificate is checked against the host's authorities, or
//! against those of one file. The cryptography is ring's.

use std::{io, path::Path, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::WriteError;

/// Who is believed. Reads files: blocks.
///
/// # Errors
/// Where nobody could be believed.
pub(super) fn config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, WriteError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let failed = |e| WriteError::because(format!("cannot read certificates from {}", path.display()), e);
        for certificate in CertificateDer::pem_file_iter(path).map_err(failed)? {
            let refused = |e| WriteError::because(format!("a certificate of {} is none", path.display()), e);
            roots.add(certificate.map_err(failed)?).map_err(refused)?;
        }
        if roots.is_empty() {
            return Err(WriteError::new(format!("{} has no certificate (PEM) in it", path.display())));
        }
    } else {
        // One that is odd is no reason to believe none of the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(WriteError::new("this host has no certificate authorities; name a file with ca_file"));
        }
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| WriteError::because("cannot speak TLS", e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Greets `host` on `stream`.
pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    host: &str,
    stream: S,
) -> io::Result<TlsStream<S>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}
