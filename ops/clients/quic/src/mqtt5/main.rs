//! The scripted conversation of `ops/clients`, held by the crate mqtt5 in both protocol versions, over QUIC or TLS.

mod over_quic;
mod peer;
mod refusals;
mod resuming;
mod scenarios;
mod version_5;

use std::process::ExitCode;

use anyhow::Result;
use mqtt5::ProtocolVersion;
use quic_conversations::{Arguments, Scenario, converse};

use crate::peer::Talk;

/// Held in both versions.
const BOTH: &[Scenario<Talk>] = &[
    ("qos-each-way", |talk| {
        Box::pin(scenarios::qos_each_way(talk))
    }),
    ("wildcards", |talk| Box::pin(scenarios::wildcards(talk))),
    ("retained", |talk| Box::pin(scenarios::retained(talk))),
    ("will-on-cut", |talk| Box::pin(scenarios::will_on_cut(talk))),
    ("no-will-after-disconnect", |talk| {
        Box::pin(scenarios::no_will_after_disconnect(talk))
    }),
    ("resume-queued", |talk| {
        Box::pin(resuming::resume_queued(talk))
    }),
    ("resume-amid-delivery", |talk| {
        Box::pin(resuming::resume_amid_delivery(talk))
    }),
    ("publisher-resumes", |talk| {
        Box::pin(resuming::publisher_resumes(talk))
    }),
    ("clean-start-forgets", |talk| {
        Box::pin(resuming::clean_start_forgets(talk))
    }),
    ("take-over", |talk| Box::pin(scenarios::take_over(talk))),
    ("shared-subscription", |talk| {
        Box::pin(scenarios::shared_subscription(talk))
    }),
    ("large-payload", |talk| {
        Box::pin(scenarios::large_payload(talk))
    }),
    ("hundred-clients", |talk| {
        Box::pin(scenarios::hundred_clients(talk))
    }),
    ("keep-alive", |talk| Box::pin(scenarios::keep_alive(talk))),
    ("empty-payload", |talk| {
        Box::pin(scenarios::empty_payload(talk))
    }),
    ("utf-8-topics", |talk| {
        Box::pin(scenarios::utf_8_topics(talk))
    }),
    ("burst-qos-0", |talk| Box::pin(scenarios::burst(talk, 0))),
    ("burst-qos-1", |talk| Box::pin(scenarios::burst(talk, 1))),
    ("burst-qos-2", |talk| Box::pin(scenarios::burst(talk, 2))),
];

/// Held in version 5 alone.
const ONLY_5: &[Scenario<Talk>] = &[
    ("take-over-reason", |talk| {
        Box::pin(version_5::take_over_reason(talk))
    }),
    ("user-properties", |talk| {
        Box::pin(version_5::user_properties(talk))
    }),
    ("request-response", |talk| {
        Box::pin(version_5::request_response(talk))
    }),
    ("message-expiry", |talk| {
        Box::pin(version_5::message_expiry(talk))
    }),
    ("topic-alias", |talk| Box::pin(version_5::topic_alias(talk))),
    ("subscription-identifiers", |talk| {
        Box::pin(version_5::subscription_identifiers(talk))
    }),
    ("assigned-client-id", |talk| {
        Box::pin(version_5::assigned_client_id(talk))
    }),
    ("no-local", |talk| Box::pin(version_5::no_local(talk))),
    ("retain-handling", |talk| {
        Box::pin(version_5::retain_handling(talk))
    }),
];

/// Held over QUIC alone.
const ONLY_QUIC: &[Scenario<Talk>] = &[
    ("address-change", |talk| {
        Box::pin(over_quic::address_change(talk))
    }),
    ("another-protocol-offered", |talk| {
        Box::pin(over_quic::another_protocol_offered(talk))
    }),
    ("early-data-declined", |talk| {
        Box::pin(over_quic::early_data_declined(talk))
    }),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse()?;
    let mut passed = true;
    for (version, name) in [(ProtocolVersion::V311, "3.1.1"), (ProtocolVersion::V5, "5")] {
        let talk = |scenario| Talk {
            host: arguments.host.clone(),
            port: arguments.port,
            tls: arguments.tls.clone(),
            quic: arguments.quic,
            version,
            token: std::process::id(),
            scenario,
        };
        let mut chosen = Vec::new();
        if arguments.refusals {
            chosen.extend_from_slice(refusals::SCENARIOS);
        } else {
            chosen.extend_from_slice(BOTH);
            if version == ProtocolVersion::V5 {
                chosen.extend_from_slice(ONLY_5);
            }
            if arguments.quic {
                chosen.extend_from_slice(ONLY_QUIC);
            }
        }
        passed &= converse(&chosen, &arguments, name, talk).await;
    }
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
