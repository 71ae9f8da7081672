//! Enhanced authentication (5.0 §3.15, §4.12), as a server without any method shows it.

use super::cases;
use crate::wire::{Bytes, Props, first, frame, prop};
use crate::{Outcome, Test, ensure};

cases! {
    an_unknown_authentication_method_is_refused:
        "4.12.0-1 4.12.0-4 3.1.4-2 3.2.2-6 3.2.2-7 3.2.2-8 4.13.2-1", "";
    without_a_method_the_server_sends_none: "4.12.0-6", "";
    auth_without_a_method_closes: "4.12.0-7 4.13.1-1", "";
    auth_with_reserved_flags_closes: "3.15.1-1", "";
    auth_with_an_unlisted_reason_code_closes: "3.15.2-1", "";
}

fn an_unknown_authentication_method_is_refused(t: &Test) -> Outcome {
    let props = Props::new()
        .data(prop::AUTH_METHOD, "no such method")
        .data(prop::AUTH_DATA, [1, 2, 3]);
    let code = t
        .client("c")
        .props(props)
        .send()?
        .refused("with an unknown Authentication Method")?;
    ensure!(
        matches!(code, None | Some(0x8C | 0x87)),
        "CONNACK {code:02x?} instead of 0x8c or 0x87"
    );
    Ok(())
}

fn without_a_method_the_server_sends_none(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    ensure!(
        client.connack.find(prop::AUTH_METHOD).is_none(),
        "an Authentication Method in CONNACK"
    );
    client.silent("that is an AUTH")
}

fn auth_without_a_method_closes(t: &Test) -> Outcome {
    for code in [0x18, 0x19] {
        let auth = Bytes::new()
            .u8(code)
            .props(t.version, &Props::new().data(prop::AUTH_METHOD, "x"));
        let mut client = t.connect("c")?;
        client.send(auth.frame(first::AUTH));
        client.closed_with(
            &[0x82, 0x8C, 0x87],
            "after AUTH without a method in CONNECT",
        )?;
    }
    Ok(())
}

fn auth_with_reserved_flags_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(frame(first::AUTH | 1, &[]));
    client.closed_with(&[0x81, 0x82], "after AUTH with reserved flags")
}

fn auth_with_an_unlisted_reason_code_closes(t: &Test) -> Outcome {
    let mut client = t.connect("c")?;
    client.send(frame(first::AUTH, &[0x42, 0]));
    client.closed_with(&[0x81, 0x82], "after AUTH with reason code 0x42")
}
