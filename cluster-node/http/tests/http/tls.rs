//! The same over TLS.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use cluster_http::{ErrorForm, Open, ServerOptions, json, ndjson, tls};
use futures::stream;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Client, Served};

struct Secure {
    served: Served,
    roots: RootCertStore,
    _folder: tempfile::TempDir,
}

impl Secure {
    async fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a pair");
        let folder = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let options = ServerOptions {
            tls: Some(tls::server_config(&certificate, &key).expect("a pair")),
            ..ServerOptions::new("test", ErrorForm::Rest)
        };
        let router = Router::new()
            .route("/", get(|| async { json("secure") }))
            .route("/lines", get(|| async { ndjson(stream::iter([Ok(1), Ok(2)])).await }));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        Self {
            served: Served::new(router, options, Arc::new(Open)).await,
            roots,
            _folder: folder,
        }
    }

    async fn connect(
        &self,
        version: &'static SupportedProtocolVersion,
        alpn: &[&str],
    ) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.served.address).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        Ok(Client::new(
            TlsConnector::from(Arc::new(config)).connect(name, stream).await?,
        ))
    }
}

#[tokio::test]
async fn both_versions_are_spoken_and_http_1_1_alone() {
    let secure = Secure::new().await;
    for version in [&TLS12, &TLS13] {
        for alpn in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
            let mut client = secure.connect(version, alpn).await.expect("a connection");
            client.say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            assert_eq!(client.answer().await.body, "\"secure\"\n");
            client.say("GET /lines HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            let answer = client.answer().await;
            assert_eq!(
                (answer.body.as_str(), answer.trailers),
                ("1\n2\n", vec!["x-stream-error: ".to_owned()])
            );
        }
        assert!(secure.connect(version, &["h2"]).await.is_err());
    }
}

#[tokio::test]
async fn who_speaks_no_tls_gets_nothing_and_disturbs_nobody() {
    let secure = Secure::new().await;
    let mut plain = secure.served.connect().await;
    plain.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let (text, _) = plain.rest().await;
    assert!(!text.contains("HTTP"));
    let mut client = secure.connect(&TLS13, &[]).await.expect("a connection");
    client.say("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}
