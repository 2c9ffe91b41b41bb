//! The crate openmls as a peer of the interoperability tests, and its benchmark.

mod convert;
mod measure;
mod member;

use protocol::Hello;

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() == Some("bench") {
        return measure::run();
    }
    protocol::serve::<member::OpenMls>(Hello {
        name: "openmls 0.9.2".into(),
        suites: vec![1, 2, 3],
        lacks: vec!["externalCommitCustomProposal", "mixedPSKs", "proposeResumptionPSK", "externalSenderPSK", "reInit", "branch"],
    })
}
