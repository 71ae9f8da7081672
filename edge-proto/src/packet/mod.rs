//! What a packet is: one type for both protocol versions, borrowing from the bytes it was read from.
//!
//! A field that only MQTT 5.0 has keeps its protocol default (`None`, empty, `ReasonCode::Success`) in a 3.1.1 packet,
//! so the code behind the decoder asks for the version only where the two protocols differ in behaviour.

mod packet_type;
mod shown;

pub use packet_type::PacketType;

use crate::reason::ReasonCode;

/// The protocol version that a CONNECT asked for (protocol level 4 or 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Quality of service of a message or the maximum of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS with this number, `None` for 3 and above.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// One MQTT control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Client to server, first packet of a connection.
    Connect(Box<Connect<'a>>),
    /// Server to client, the answer to CONNECT.
    ConnAck(Box<ConnAck<'a>>),
    /// An application message, either way.
    Publish(Publish<'a>),
    /// Acknowledges a QoS 1 PUBLISH.
    PubAck(Ack<'a>),
    /// QoS 2, part 1.
    PubRec(Ack<'a>),
    /// QoS 2, part 2.
    PubRel(Ack<'a>),
    /// QoS 2, part 3.
    PubComp(Ack<'a>),
    /// Client to server.
    Subscribe(Subscribe<'a>),
    /// Server to client.
    SubAck(SubAck<'a>),
    /// Client to server.
    Unsubscribe(Unsubscribe<'a>),
    /// Server to client.
    UnsubAck(SubAck<'a>),
    /// Keep-alive.
    PingReq,
    /// Answer to PINGREQ.
    PingResp,
    /// Last packet of a connection.
    Disconnect(Disconnect<'a>),
    /// Enhanced authentication, MQTT 5.0 only.
    Auth(Auth<'a>),
}

/// User properties: the name-value pairs of a property block, in order (MQTT 5.0 §2.2.2.2, identifier 0x26).
///
/// Holds the validated property block it was read from and skips all other properties while iterating, so nothing is
/// copied. Equality compares the pairs, not the blocks.
#[derive(Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// A whole property block without its length prefix, already validated by the decoder (or made by
    /// [`crate::encode::user_properties`]).
    pub(crate) block: &'a [u8],
}

/// CONNECT (§3.1).
#[derive(Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Protocol version.
    pub version: Version,
    /// Clean Start (5.0) or Clean Session (3.1.1).
    pub clean_start: bool,
    /// Keep Alive in seconds, 0 = off.
    pub keep_alive_s: u16,
    /// Client identifier, may be empty.
    pub client_id: &'a str,
    /// Will message, if the will flag is set.
    pub will: Option<Will<'a>>,
    /// User name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Session Expiry Interval in seconds; `None` when absent (5.0: 0; 3.1.1: follows from `clean_start`).
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum, 65,535 when absent; never 0.
    pub receive_maximum: u16,
    /// Maximum Packet Size in bytes, `None` = no limit; never 0.
    pub maximum_packet_size: Option<u32>,
    /// Topic Alias Maximum that the client accepts from us, 0 when absent.
    pub topic_alias_maximum: u16,
    /// Request Response Information.
    pub request_response_information: bool,
    /// Request Problem Information, true when absent.
    pub request_problem_information: bool,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// User properties of the CONNECT itself.
    pub user_properties: UserProperties<'a>,
}

/// The will of a CONNECT (§3.1.2.5, §3.1.3.2).
#[derive(Clone, PartialEq, Eq)]
pub struct Will<'a> {
    /// Will topic: a valid topic name.
    pub topic: &'a str,
    /// Will payload.
    pub payload: &'a [u8],
    /// Will QoS.
    pub qos: QoS,
    /// Will retain.
    pub retain: bool,
    /// Will Delay Interval in seconds, 0 when absent.
    pub delay_s: u32,
    /// Properties of the message to publish; `topic_alias` and `subscription_ids` are always unset.
    pub properties: PublishProperties<'a>,
}

/// CONNACK (§3.2). What is `None` or at its protocol default is not encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Session Present.
    pub session_present: bool,
    /// Reason code; the 3.1.1 encoder maps it to a return code.
    pub reason: ReasonCode,
    /// Session Expiry Interval the server uses, when it differs from the request.
    pub session_expiry_s: Option<u32>,
    /// Receive Maximum of the server, 65,535 = absent.
    pub receive_maximum: u16,
    /// Maximum QoS, `ExactlyOnce` = absent.
    pub maximum_qos: QoS,
    /// Retain Available, true = absent.
    pub retain_available: bool,
    /// Maximum Packet Size of the server.
    pub maximum_packet_size: Option<u32>,
    /// Assigned Client Identifier.
    pub assigned_client_id: Option<&'a str>,
    /// Topic Alias Maximum of the server, 0 = absent.
    pub topic_alias_maximum: u16,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Wildcard Subscription Available, true = absent.
    pub wildcard_subscription_available: bool,
    /// Subscription Identifiers Available, true = absent.
    pub subscription_ids_available: bool,
    /// Shared Subscription Available, true = absent.
    pub shared_subscription_available: bool,
    /// Server Keep Alive in seconds.
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<&'a str>,
    /// Server Reference.
    pub server_reference: Option<&'a str>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
}

// Packets are passed by value, message by message.
const _: () = assert!(size_of::<Packet<'_>>() <= 136);

impl<'a> Connect<'a> {
    /// A CONNECT with a clean start, no keep-alive and every property at its protocol default.
    pub fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive_s: 0,
            client_id,
            will: None,
            username: None,
            password: None,
            session_expiry_s: None,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            user_properties: UserProperties::default(),
        }
    }
}

impl Default for ConnAck<'_> {
    /// A success without session and with every property at its protocol default.
    fn default() -> Self {
        Self {
            session_present: false,
            reason: ReasonCode::Success,
            session_expiry_s: None,
            receive_maximum: u16::MAX,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            user_properties: UserProperties::default(),
            wildcard_subscription_available: true,
            subscription_ids_available: true,
            shared_subscription_available: true,
            server_keep_alive_s: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}

/// PUBLISH (§3.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Publish<'a> {
    /// DUP flag.
    pub dup: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN flag.
    pub retain: bool,
    /// Topic name. Empty only when `properties.topic_alias` is set.
    pub topic: &'a str,
    /// Packet identifier: `Some` exactly when QoS > 0; never 0.
    pub packet_id: Option<u16>,
    /// Properties.
    pub properties: PublishProperties<'a>,
    /// Application payload.
    pub payload: &'a [u8],
}

/// The properties of a PUBLISH or a will message (§3.3.2.3).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// Payload Format Indicator: `Some(true)` = UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Message Expiry Interval in seconds.
    pub message_expiry_s: Option<u32>,
    /// Topic Alias; never 0.
    pub topic_alias: Option<u16>,
    /// Response Topic: a valid topic name.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// Subscription identifiers, server to client only: the whole property block again, iterated lazily like user
    /// properties. Empty in everything that a client may send.
    pub subscription_ids: SubscriptionIds<'a>,
    /// User properties, in order.
    pub user_properties: UserProperties<'a>,
}

/// The subscription identifiers of a property block, in order.
#[derive(Clone, Copy, Default)]
pub struct SubscriptionIds<'a> {
    /// A whole validated property block without its length prefix.
    pub(crate) block: &'a [u8],
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Packet identifier; never 0.
    pub packet_id: u16,
    /// Reason code, `Success` in 3.1.1.
    pub reason: ReasonCode,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

impl Ack<'_> {
    /// An acknowledgement without properties.
    pub fn new(packet_id: u16, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            reason_string: None,
            user_properties: UserProperties::default(),
        }
    }
}

/// SUBSCRIBE (§3.8). The filters are iterated, not collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Packet identifier; never 0.
    pub packet_id: u16,
    /// Subscription Identifier, 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// At least one requested subscription.
    pub filters: SubscribeFilters<'a>,
}

/// The validated list of topic filters and options of a SUBSCRIBE; iterate it with [`SubscribeFilters::iter`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    /// Protocol version, which decides whether an options byte may have more than the QoS.
    pub(crate) version: Version,
    /// The payload of the SUBSCRIBE.
    pub(crate) bytes: &'a [u8],
}

/// Subscription options (§3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub maximum_qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when a subscription is made (§3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// Send them at each SUBSCRIBE.
    Send = 0,
    /// Send them only if the subscription is new.
    SendIfNew = 1,
    /// Never send them.
    DoNotSend = 2,
}

impl RetainHandling {
    /// The retain handling with this number, `None` for 3 and above.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::Send),
            1 => Some(Self::SendIfNew),
            2 => Some(Self::DoNotSend),
            _ => None,
        }
    }
}

impl SubscriptionOptions {
    /// The options that a 3.1.1 subscription has: a maximum QoS, and retained messages at each SUBSCRIBE.
    pub const fn from_qos(maximum_qos: QoS) -> Self {
        Self {
            maximum_qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options byte (§3.8.3.1).
    pub const fn to_u8(self) -> u8 {
        self.maximum_qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// SUBACK or UNSUBACK (§3.9, §3.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Packet identifier of the SUBSCRIBE or UNSUBSCRIBE.
    pub packet_id: u16,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// One reason code byte per filter, in order. Empty in a 3.1.1 UNSUBACK.
    pub reasons: &'a [u8],
}

/// UNSUBSCRIBE (§3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Packet identifier; never 0.
    pub packet_id: u16,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// At least one topic filter; iterate with [`UnsubscribeFilters::iter`].
    pub filters: UnsubscribeFilters<'a>,
}

/// The validated list of topic filters of an UNSUBSCRIBE.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    /// The payload of the UNSUBSCRIBE.
    pub(crate) bytes: &'a [u8],
}

/// DISCONNECT (§3.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Reason code, `NormalDisconnection` in 3.1.1.
    pub reason: ReasonCode,
    /// Session Expiry Interval, client to server only.
    pub session_expiry_s: Option<u32>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// Server Reference, server to client only.
    pub server_reference: Option<&'a str>,
}

impl Disconnect<'_> {
    /// A DISCONNECT without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_s: None,
            reason_string: None,
            user_properties: UserProperties::default(),
            server_reference: None,
        }
    }
}

/// AUTH (§3.15), MQTT 5.0 only.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// `Success`, `ContinueAuthentication` or `ReAuthenticate`.
    pub reason: ReasonCode,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}
