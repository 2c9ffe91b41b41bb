//! The crate mls-rs as a peer of the interoperability tests, and its benchmark.

mod convert;
mod measure;
mod member;
mod policy;

use mls_rs::CryptoProvider;
use mls_rs_crypto_awslc::AwsLcCryptoProvider;
use protocol::Hello;

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("bench") {
        return measure::run();
    }
    protocol::serve::<member::MlsRs>(Hello {
        name: "mls-rs 0.57.0".into(),
        suites: AwsLcCryptoProvider::default().supported_cipher_suites().into_iter().map(u16::from).collect(),
        lacks: vec!["lateFromGone", "selfRemove", "externalCommitSelfRemove", "reInitOtherHash", "reInitBlankLeaf", "tamperedPrivate"],
    })
}
