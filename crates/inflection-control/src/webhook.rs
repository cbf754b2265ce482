//! Email service providers that report to us, and what each needs to be believed.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{Certificate, Secret};

/// Who reports to a webhook. A row in each of these matches, a file in `inflection-ingest/src/webhooks`, a folder of
/// fixtures and a page in `docs/sources` make a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Provider {
    /// Amazon SES, through SNS.
    Ses,
    /// Twilio SendGrid, Event Webhook.
    Sendgrid,
    /// Mailgun.
    Mailgun,
    /// Postmark.
    Postmark,
    /// Resend, which signs as Svix does.
    Resend,
    /// A sender of its own events through Svix.
    Svix,
    /// A sender of its own events that signs them after the Standard Webhooks specification.
    StandardWebhooks,
    /// SparkPost (Bird).
    Sparkpost,
    /// Mailchimp Transactional (Mandrill).
    Mandrill,
    /// Brevo.
    Brevo,
    /// Mailjet.
    Mailjet,
    /// MailerSend.
    Mailersend,
    /// Any sender of its own events as CloudEvents 1.0.
    Cloudevents,
}

/// What proves that a request comes from a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Every request is signed, and the secrets are keys of this form. At least one is needed.
    Signed(KeyForm),
    /// Every request is signed under a certificate of Amazon's, which proves that some topic sent it: the topic must be one
    /// of those that are named. Secrets are credentials for raw delivery, which is not signed.
    Topics,
    /// Nothing is signed. The secrets are credentials that the provider is told to send; without any, or with short ones,
    /// the token alone protects the webhook, and must be longer.
    Credentials,
}

/// DER of a P-256 public key up to its 65-byte point (RFC 5480).
pub const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// How a signing key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// Any text of at least [`Webhook::SECRET_BYTES_MIN`]; its bytes are the key.
    Text,
    /// Base64 of a key of at least [`Webhook::SECRET_BYTES_MIN`], after an optional `whsec_`.
    Base64,
    /// Base64 of a P-256 public key with its algorithm (SubjectPublicKeyInfo), without armour.
    P256PublicKey,
}

impl KeyForm {
    /// The key that a secret is: bytes of an HMAC's key, or the point of a public key. `None` when it is not written so. How
    /// long the key is, is not looked at.
    #[must_use]
    pub fn decode(self, secret: &Secret) -> Option<Vec<u8>> {
        let text = secret.expose();
        match self {
            Self::Text => Some(text.as_bytes().to_vec()),
            Self::Base64 => STANDARD.decode(text.strip_prefix("whsec_").unwrap_or(text)).ok(),
            // Consoles and terminals break the line.
            Self::P256PublicKey => {
                let der = STANDARD.decode(text.replace(['\n', '\r', ' '], "")).ok()?;
                der.strip_prefix(&P256_SPKI_PREFIX).map(<[u8]>::to_vec)
            }
        }
    }
}

impl Provider {
    /// Every provider.
    pub const ALL: [Self; 13] = [
        Self::Ses,
        Self::Sendgrid,
        Self::Mailgun,
        Self::Postmark,
        Self::Resend,
        Self::Svix,
        Self::StandardWebhooks,
        Self::Sparkpost,
        Self::Mandrill,
        Self::Brevo,
        Self::Mailjet,
        Self::Mailersend,
        Self::Cloudevents,
    ];

    /// The name in the path, in the configuration and in `provider` of a fact.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ses => "ses",
            Self::Sendgrid => "sendgrid",
            Self::Mailgun => "mailgun",
            Self::Postmark => "postmark",
            Self::Resend => "resend",
            Self::Svix => "svix",
            Self::StandardWebhooks => "standard-webhooks",
            Self::Sparkpost => "sparkpost",
            Self::Mandrill => "mandrill",
            Self::Brevo => "brevo",
            Self::Mailjet => "mailjet",
            Self::Mailersend => "mailersend",
            Self::Cloudevents => "cloudevents",
        }
    }

    /// The provider of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.name() == name)
    }

    /// What proves that a request comes from it.
    #[must_use]
    pub fn guard(self) -> Guard {
        match self {
            Self::Ses => Guard::Topics,
            Self::Sendgrid => Guard::Signed(KeyForm::P256PublicKey),
            Self::Mailgun | Self::Mandrill | Self::Mailersend => Guard::Signed(KeyForm::Text),
            Self::Postmark | Self::Sparkpost | Self::Brevo | Self::Mailjet | Self::Cloudevents => Guard::Credentials,
            Self::Resend | Self::Svix | Self::StandardWebhooks => Guard::Signed(KeyForm::Base64),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Fields of ours that travel with a mail as the provider's custom data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the ingest API's own, documented in the contract")]
pub enum Field {
    PersonId,
    UserId,
    GroupId,
    EmailId,
    EmailSubject,
    CampaignId,
    CampaignRunId,
    CampaignName,
    LinkId,
}

impl Field {
    /// Every field.
    pub const ALL: [Self; 9] = [
        Self::PersonId,
        Self::UserId,
        Self::GroupId,
        Self::EmailId,
        Self::EmailSubject,
        Self::CampaignId,
        Self::CampaignRunId,
        Self::CampaignName,
        Self::LinkId,
    ];

    /// The name in the ingest API; in custom data it may stand behind `inflection_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PersonId => "person_id",
            Self::UserId => "user_id",
            Self::GroupId => "group_id",
            Self::EmailId => "email_id",
            Self::EmailSubject => "email_subject",
            Self::CampaignId => "campaign_id",
            Self::CampaignRunId => "campaign_run_id",
            Self::CampaignName => "campaign_name",
            Self::LinkId => "link_id",
        }
    }
}

/// What is answered to a request whose proof is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthFailure {
    /// 401: most providers try again for hours, some give up at once.
    #[default]
    Reject,
    /// 429: all try again, so that a mistyped secret loses nothing while it is put right.
    Defer,
}

/// An email service provider's webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Who reports.
    pub provider: Provider,
    /// The unguessable part of the path.
    pub token: Secret,
    /// Signing secrets, public keys or credentials, newest first; see [`Provider::guard`].
    pub secrets: Vec<Secret>,
    /// What custom data is called when it is not called by our names.
    pub fields: BTreeMap<Field, String>,
    /// What is answered to a request whose proof is wrong.
    pub on_auth_failure: AuthFailure,
    /// SES: the topics of SNS from which messages are taken.
    pub topic_arns: Vec<String>,
    /// SES: certificates of SNS, for where none can be fetched; with any, none are.
    pub certificates: Vec<Certificate>,
    /// CloudEvents: origins that are told, when they ask, that they may send.
    pub allowed_origins: Vec<String>,
    /// Mandrill: the address as it was typed in there, which it signs. It may have credentials in it.
    pub signed_url: Option<Secret>,
    /// Mandrill: whether `send` (handed over) counts as delivered, for accounts that have no `delivered`.
    pub send_is_delivered: bool,
    /// SparkPost: whether opens are counted by the pixel at the top of a mail, and not by the one at its end.
    pub initial_opens: bool,
}

impl Webhook {
    /// Shortest token of a webhook whose requests prove themselves.
    pub const TOKEN_BYTES_MIN: usize = 16;
    /// Shortest key of an HMAC, and shortest credentials that count as some. It keeps out what was left empty or cut off; how
    /// hard a secret is to guess is its provider's choice.
    pub const SECRET_BYTES_MIN: usize = 8;
    /// Shortest token of a webhook that nothing else protects.
    pub const LONE_TOKEN_BYTES_MIN: usize = 32;

    /// A webhook with no settings beyond what every one has.
    #[must_use]
    pub fn new(provider: Provider, token: Secret, secrets: Vec<Secret>) -> Self {
        Self {
            provider,
            token,
            secrets,
            fields: BTreeMap::new(),
            on_auth_failure: AuthFailure::default(),
            topic_arns: Vec::new(),
            certificates: Vec::new(),
            allowed_origins: Vec::new(),
            signed_url: None,
            send_is_delivered: false,
            initial_opens: false,
        }
    }
}
