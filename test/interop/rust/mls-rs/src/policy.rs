//! What the application decides: all credentials are good, and each commit is made as its request says.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use mls_rs::client_builder::PaddingMode;
use mls_rs::group::proposal::CustomProposal;
use mls_rs::group::{GroupContext, Roster};
use mls_rs::identity::{CredentialType, SigningIdentity};
use mls_rs::mls_rules::{CommitDirection, CommitOptions, CommitSource, EncryptionOptions, ProposalBundle};
use mls_rs::time::MlsTime;
use mls_rs::{ExtensionList, IdentityProvider, MlsRules};
use mls_rs_core::identity::{Credential, MemberValidationContext};

/// Anyone accepts every credential of the types that it was made with. The credential's body is the identity.
#[derive(Clone, Debug)]
pub struct Anyone(pub Vec<CredentialType>);

impl IdentityProvider for Anyone {
    type Error = Infallible;

    fn validate_member(&self, _: &SigningIdentity, _: Option<MlsTime>, _: MemberValidationContext<'_>) -> Result<(), Infallible> {
        Ok(())
    }

    fn validate_external_sender(&self, _: &SigningIdentity, _: Option<MlsTime>, _: Option<&ExtensionList>) -> Result<(), Infallible> {
        Ok(())
    }

    fn identity(&self, identity: &SigningIdentity, _: &ExtensionList) -> Result<Vec<u8>, Infallible> {
        Ok(match &identity.credential {
            Credential::Basic(b) => b.identifier.clone(),
            Credential::Custom(c) => c.data.clone(),
            _ => identity.signature_key.to_vec(),
        })
    }

    fn valid_successor(&self, _: &SigningIdentity, _: &SigningIdentity, _: &ExtensionList) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        self.0.clone()
    }
}

/// Options of the next handshake message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub path: bool,
    pub tree: bool,
    pub private: bool,
}

/// Rules follow the options of the moment.
#[derive(Clone, Debug, Default)]
pub struct Rules(Arc<Mutex<Options>>);

impl Rules {
    pub fn set(&self, options: Options) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = options;
    }

    fn get(&self) -> Options {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl MlsRules for Rules {
    type Error = Infallible;

    fn filter_proposals(
        &self,
        _: CommitDirection,
        _: CommitSource,
        _: &Roster,
        _: &GroupContext,
        proposals: ProposalBundle,
    ) -> Result<ProposalBundle, Infallible> {
        Ok(proposals)
    }

    fn commit_options(&self, _: &Roster, _: &GroupContext, _: &ProposalBundle) -> Result<CommitOptions, Infallible> {
        let o = self.get();
        Ok(CommitOptions::new().with_path_required(o.path).with_ratchet_tree_extension(o.tree))
    }

    fn encryption_options(&self, _: &Roster, _: &GroupContext) -> Result<EncryptionOptions, Infallible> {
        Ok(EncryptionOptions::new(self.get().private, PaddingMode::StepFunction))
    }

    fn custom_proposal_requires_update_path(&self, _: &CustomProposal) -> bool {
        false
    }
}
