//! Reason codes, and violations that name the clause of the specification they break.

use core::fmt;

use crate::packet::PacketType;

/// A reason code (MQTT 5.0 §2.4). Codes that share a number share a variant: `Success` is also "Normal disconnection"
/// and "Granted QoS 0".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ReasonCode {
    /// Success, Normal disconnection, Granted QoS 0.
    Success = 0x00,
    /// Granted QoS 1.
    GrantedQoS1 = 0x01,
    /// Granted QoS 2.
    GrantedQoS2 = 0x02,
    /// Disconnect with Will Message.
    DisconnectWithWill = 0x04,
    /// No matching subscribers.
    NoMatchingSubscribers = 0x10,
    /// No subscription existed.
    NoSubscriptionExisted = 0x11,
    /// Continue authentication.
    ContinueAuthentication = 0x18,
    /// Re-authenticate.
    ReAuthenticate = 0x19,
    /// Unspecified error.
    UnspecifiedError = 0x80,
    /// Malformed Packet.
    MalformedPacket = 0x81,
    /// Protocol Error.
    ProtocolError = 0x82,
    /// Implementation specific error.
    ImplementationSpecificError = 0x83,
    /// Unsupported Protocol Version.
    UnsupportedProtocolVersion = 0x84,
    /// Client Identifier not valid.
    ClientIdentifierNotValid = 0x85,
    /// Bad User Name or Password.
    BadUserNameOrPassword = 0x86,
    /// Not authorized.
    NotAuthorized = 0x87,
    /// Server unavailable.
    ServerUnavailable = 0x88,
    /// Server busy.
    ServerBusy = 0x89,
    /// Banned.
    Banned = 0x8A,
    /// Server shutting down.
    ServerShuttingDown = 0x8B,
    /// Bad authentication method.
    BadAuthenticationMethod = 0x8C,
    /// Keep Alive timeout.
    KeepAliveTimeout = 0x8D,
    /// Session taken over.
    SessionTakenOver = 0x8E,
    /// Topic Filter invalid.
    TopicFilterInvalid = 0x8F,
    /// Topic Name invalid.
    TopicNameInvalid = 0x90,
    /// Packet Identifier in use.
    PacketIdentifierInUse = 0x91,
    /// Packet Identifier not found.
    PacketIdentifierNotFound = 0x92,
    /// Receive Maximum exceeded.
    ReceiveMaximumExceeded = 0x93,
    /// Topic Alias invalid.
    TopicAliasInvalid = 0x94,
    /// Packet too large.
    PacketTooLarge = 0x95,
    /// Message rate too high.
    MessageRateTooHigh = 0x96,
    /// Quota exceeded.
    QuotaExceeded = 0x97,
    /// Administrative action.
    AdministrativeAction = 0x98,
    /// Payload format invalid.
    PayloadFormatInvalid = 0x99,
    /// Retain not supported.
    RetainNotSupported = 0x9A,
    /// QoS not supported.
    QoSNotSupported = 0x9B,
    /// Use another server.
    UseAnotherServer = 0x9C,
    /// Server moved.
    ServerMoved = 0x9D,
    /// Shared Subscriptions not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Connection rate exceeded.
    ConnectionRateExceeded = 0x9F,
    /// Maximum connect time.
    MaximumConnectTime = 0xA0,
    /// Subscription Identifiers not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard Subscriptions not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// The reason code with this number, `None` for a number that the specification does not use.
    pub const fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::Success,
            0x01 => Self::GrantedQoS1,
            0x02 => Self::GrantedQoS2,
            0x04 => Self::DisconnectWithWill,
            0x10 => Self::NoMatchingSubscribers,
            0x11 => Self::NoSubscriptionExisted,
            0x18 => Self::ContinueAuthentication,
            0x19 => Self::ReAuthenticate,
            0x80 => Self::UnspecifiedError,
            0x81 => Self::MalformedPacket,
            0x82 => Self::ProtocolError,
            0x83 => Self::ImplementationSpecificError,
            0x84 => Self::UnsupportedProtocolVersion,
            0x85 => Self::ClientIdentifierNotValid,
            0x86 => Self::BadUserNameOrPassword,
            0x87 => Self::NotAuthorized,
            0x88 => Self::ServerUnavailable,
            0x89 => Self::ServerBusy,
            0x8A => Self::Banned,
            0x8B => Self::ServerShuttingDown,
            0x8C => Self::BadAuthenticationMethod,
            0x8D => Self::KeepAliveTimeout,
            0x8E => Self::SessionTakenOver,
            0x8F => Self::TopicFilterInvalid,
            0x90 => Self::TopicNameInvalid,
            0x91 => Self::PacketIdentifierInUse,
            0x92 => Self::PacketIdentifierNotFound,
            0x93 => Self::ReceiveMaximumExceeded,
            0x94 => Self::TopicAliasInvalid,
            0x95 => Self::PacketTooLarge,
            0x96 => Self::MessageRateTooHigh,
            0x97 => Self::QuotaExceeded,
            0x98 => Self::AdministrativeAction,
            0x99 => Self::PayloadFormatInvalid,
            0x9A => Self::RetainNotSupported,
            0x9B => Self::QoSNotSupported,
            0x9C => Self::UseAnotherServer,
            0x9D => Self::ServerMoved,
            0x9E => Self::SharedSubscriptionsNotSupported,
            0x9F => Self::ConnectionRateExceeded,
            0xA0 => Self::MaximumConnectTime,
            0xA1 => Self::SubscriptionIdentifiersNotSupported,
            0xA2 => Self::WildcardSubscriptionsNotSupported,
            _ => return None,
        })
    }

    /// True for 0x80 and above: the operation failed.
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// Whether this reason code may stand in this packet.
    pub fn is_valid_in(self, packet: PacketType) -> bool {
        self.packets().contains(&packet)
    }

    /// The packets that a reason code may stand in (Table 2-6).
    #[rustfmt::skip] // A table.
    const fn packets(self) -> &'static [PacketType] {
        use PacketType::{Auth, ConnAck, Disconnect, PubAck, PubComp, PubRec, PubRel, SubAck, UnsubAck};
        match self {
            Self::Success => &[ConnAck, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, Disconnect, Auth],
            Self::GrantedQoS1 => &[SubAck],
            Self::GrantedQoS2 => &[SubAck],
            Self::DisconnectWithWill => &[Disconnect],
            Self::NoMatchingSubscribers => &[PubAck, PubRec],
            Self::NoSubscriptionExisted => &[UnsubAck],
            Self::ContinueAuthentication => &[Auth],
            Self::ReAuthenticate => &[Auth],
            Self::UnspecifiedError => &[ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect],
            Self::MalformedPacket => &[ConnAck, Disconnect],
            Self::ProtocolError => &[ConnAck, Disconnect],
            Self::ImplementationSpecificError => &[ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect],
            Self::UnsupportedProtocolVersion => &[ConnAck],
            Self::ClientIdentifierNotValid => &[ConnAck],
            Self::BadUserNameOrPassword => &[ConnAck],
            Self::NotAuthorized => &[ConnAck, PubAck, PubRec, SubAck, UnsubAck, Disconnect],
            Self::ServerUnavailable => &[ConnAck],
            Self::ServerBusy => &[ConnAck, Disconnect],
            Self::Banned => &[ConnAck],
            Self::ServerShuttingDown => &[Disconnect],
            Self::BadAuthenticationMethod => &[ConnAck, Disconnect],
            Self::KeepAliveTimeout => &[Disconnect],
            Self::SessionTakenOver => &[Disconnect],
            Self::TopicFilterInvalid => &[SubAck, UnsubAck, Disconnect],
            Self::TopicNameInvalid => &[ConnAck, PubAck, PubRec, Disconnect],
            Self::PacketIdentifierInUse => &[PubAck, PubRec, SubAck, UnsubAck],
            Self::PacketIdentifierNotFound => &[PubRel, PubComp],
            Self::ReceiveMaximumExceeded => &[Disconnect],
            Self::TopicAliasInvalid => &[Disconnect],
            Self::PacketTooLarge => &[ConnAck, Disconnect],
            Self::MessageRateTooHigh => &[Disconnect],
            Self::QuotaExceeded => &[ConnAck, PubAck, PubRec, SubAck, Disconnect],
            Self::AdministrativeAction => &[Disconnect],
            Self::PayloadFormatInvalid => &[ConnAck, PubAck, PubRec, Disconnect],
            Self::RetainNotSupported => &[ConnAck, Disconnect],
            Self::QoSNotSupported => &[ConnAck, Disconnect],
            Self::UseAnotherServer => &[ConnAck, Disconnect],
            Self::ServerMoved => &[ConnAck, Disconnect],
            Self::SharedSubscriptionsNotSupported => &[SubAck, Disconnect],
            Self::ConnectionRateExceeded => &[ConnAck, Disconnect],
            Self::MaximumConnectTime => &[Disconnect],
            Self::SubscriptionIdentifiersNotSupported => &[SubAck, Disconnect],
            Self::WildcardSubscriptionsNotSupported => &[SubAck, Disconnect],
        }
    }

    /// The name in the specification, for logs and metrics. 0x00 is called "Success" whatever the packet.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "Success",
            Self::GrantedQoS1 => "Granted QoS 1",
            Self::GrantedQoS2 => "Granted QoS 2",
            Self::DisconnectWithWill => "Disconnect with Will Message",
            Self::NoMatchingSubscribers => "No matching subscribers",
            Self::NoSubscriptionExisted => "No subscription existed",
            Self::ContinueAuthentication => "Continue authentication",
            Self::ReAuthenticate => "Re-authenticate",
            Self::UnspecifiedError => "Unspecified error",
            Self::MalformedPacket => "Malformed Packet",
            Self::ProtocolError => "Protocol Error",
            Self::ImplementationSpecificError => "Implementation specific error",
            Self::UnsupportedProtocolVersion => "Unsupported Protocol Version",
            Self::ClientIdentifierNotValid => "Client Identifier not valid",
            Self::BadUserNameOrPassword => "Bad User Name or Password",
            Self::NotAuthorized => "Not authorized",
            Self::ServerUnavailable => "Server unavailable",
            Self::ServerBusy => "Server busy",
            Self::Banned => "Banned",
            Self::ServerShuttingDown => "Server shutting down",
            Self::BadAuthenticationMethod => "Bad authentication method",
            Self::KeepAliveTimeout => "Keep Alive timeout",
            Self::SessionTakenOver => "Session taken over",
            Self::TopicFilterInvalid => "Topic Filter invalid",
            Self::TopicNameInvalid => "Topic Name invalid",
            Self::PacketIdentifierInUse => "Packet Identifier in use",
            Self::PacketIdentifierNotFound => "Packet Identifier not found",
            Self::ReceiveMaximumExceeded => "Receive Maximum exceeded",
            Self::TopicAliasInvalid => "Topic Alias invalid",
            Self::PacketTooLarge => "Packet too large",
            Self::MessageRateTooHigh => "Message rate too high",
            Self::QuotaExceeded => "Quota exceeded",
            Self::AdministrativeAction => "Administrative action",
            Self::PayloadFormatInvalid => "Payload format invalid",
            Self::RetainNotSupported => "Retain not supported",
            Self::QoSNotSupported => "QoS not supported",
            Self::UseAnotherServer => "Use another server",
            Self::ServerMoved => "Server moved",
            Self::SharedSubscriptionsNotSupported => "Shared Subscriptions not supported",
            Self::ConnectionRateExceeded => "Connection rate exceeded",
            Self::MaximumConnectTime => "Maximum connect time",
            Self::SubscriptionIdentifiersNotSupported => "Subscription Identifiers not supported",
            Self::WildcardSubscriptionsNotSupported => "Wildcard Subscriptions not supported",
        }
    }

    /// The CONNECT return code of MQTT 3.1.1 (§3.2.2.3 there) that says this best.
    pub const fn connack_return_code_v311(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword | Self::BadAuthenticationMethod => 4,
            Self::NotAuthorized | Self::Banned => 5,
            _ => 3,
        }
    }

    /// The reason code for a CONNECT return code of MQTT 3.1.1, `None` for 6 and above (reserved).
    pub const fn from_connack_return_code_v311(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }
}

impl fmt::Display for ReasonCode {
    /// `Not authorized (0x87)`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (0x{:02X})", self.name(), *self as u8)
    }
}

/// A peer broke a rule of the specification: which one, and the reason code it gets for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} [{clause}]")]
pub struct Violation {
    /// The reason code to send before the connection is closed.
    pub reason: ReasonCode,
    /// The normative statement, e.g. `MQTT-3.1.2-1`, or the section where the statement has no number, e.g. `MQTT5
    /// §2.1.3`.
    pub clause: &'static str,
    /// What was wrong, in words, without data of the peer.
    pub detail: &'static str,
}

impl Violation {
    /// A violation that gets this reason code.
    pub const fn new(reason: ReasonCode, clause: &'static str, detail: &'static str) -> Self {
        Self {
            reason,
            clause,
            detail,
        }
    }

    /// A violation that gets 0x81 Malformed Packet.
    pub const fn malformed(clause: &'static str, detail: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, clause, detail)
    }

    /// A violation that gets 0x82 Protocol Error.
    pub const fn protocol(clause: &'static str, detail: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, clause, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_either_its_reason_code_or_none() {
        let known = (0..=u8::MAX).filter_map(|value| {
            let reason = ReasonCode::from_u8(value)?;
            assert_eq!(reason as u8, value);
            Some(reason)
        });
        assert_eq!(known.count(), 43);
    }

    #[test]
    fn return_codes_of_3_1_1_come_back_as_themselves() {
        for value in 0..=5 {
            let reason = ReasonCode::from_connack_return_code_v311(value).unwrap();
            assert_eq!(reason.connack_return_code_v311(), value);
        }
        assert_eq!(ReasonCode::from_connack_return_code_v311(6), None);
        assert_eq!(ReasonCode::ServerBusy.connack_return_code_v311(), 3);
    }

    #[test]
    fn a_reason_code_is_shown_with_its_name_and_number() {
        assert_eq!(
            ReasonCode::NotAuthorized.to_string(),
            "Not authorized (0x87)"
        );
        assert!(!ReasonCode::ServerMoved.is_valid_in(PacketType::PubAck));
        assert!(ReasonCode::PacketIdentifierNotFound.is_valid_in(PacketType::PubRel));
    }
}
