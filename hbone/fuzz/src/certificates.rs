// SPDX-License-Identifier: Apache-2.0
//! Certificates of Ed25519 keys: their signatures are always as long, so a flight of the handshake
//! is too, and an edit at an offset means the same in every run.

use hbone_tls::{SpiffeId, Svid};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType,
};

/// Identities of the two sides.
pub const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/curl";
/// The server's.
pub const SERVER: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// A valid ID.
pub fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("a valid id")
}

/// A certificate authority.
pub struct Ca {
    /// Its certificate.
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
    leaf_key: KeyPair,
}

impl Default for Ca {
    fn default() -> Self {
        let key = key();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "cluster.local");
        let der = params.self_signed(&key).expect("a root").der().to_vec();
        Self {
            der,
            issuer: Issuer::new(params, key),
            leaf_key: self::key(),
        }
    }
}

impl Ca {
    /// A leaf with these URI names; `None` if rcgen cannot write one of them.
    pub fn leaf(&self, uris: &[&str]) -> Option<Vec<u8>> {
        let mut params = leaf_params();
        for uri in uris {
            params
                .subject_alt_names
                .push(SanType::URI((*uri).try_into().ok()?));
        }
        Some(self.sign(params))
    }

    /// A leaf whose extension of alternative names has this content, whatever it is.
    pub fn leaf_with_raw_names(&self, content: &[u8]) -> Vec<u8> {
        let mut params = leaf_params();
        let names = CustomExtension::from_oid_content(&[2, 5, 29, 17], content.to_vec());
        params.custom_extensions.push(names);
        self.sign(params)
    }

    /// The key of every leaf, PKCS#8.
    pub fn key(&self) -> Vec<u8> {
        self.leaf_key.serialize_der()
    }

    /// What a workload holds.
    pub fn svid(&self, uri: &str) -> Svid {
        let leaf = self.leaf(&[uri]).expect("a URI");
        Svid::new(&[leaf], &self.key(), std::slice::from_ref(&self.der)).expect("a good SVID")
    }

    fn sign(&self, params: CertificateParams) -> Vec<u8> {
        let signed = params.signed_by(&self.leaf_key, &self.issuer);
        signed.expect("a leaf").der().to_vec()
    }
}

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).expect("a key")
}

fn leaf_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}
