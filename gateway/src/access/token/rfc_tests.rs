//! Tokens: the examples of RFC 7515 and RFC 8037.

use serde_json::json;

use super::tests::{NOW, jwks};
use super::*;

// RFC 7515, appendix A.1 to A.3: one payload, signed with three kinds of keys.
const RFC_PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC_NOW: u64 = 1_300_819_000_000;

fn rfc_policy() -> TokenPolicy {
    TokenPolicy {
        user_claim: "iss".into(),
        ..TokenPolicy::default()
    }
}

fn rfc_examples() -> [(&'static str, Value, &'static str); 3] {
    let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    let rs_signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    [
        (
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            json!({ "kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" }),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            "eyJhbGciOiJSUzI1NiJ9",
            json!({ "kty": "RSA", "n": n, "e": "AQAB" }),
            rs_signature,
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            json!({
                "kty": "EC", "crv": "P-256",
                "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
                "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
            }),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
    ]
}

#[test]
fn the_examples_of_rfc_7515_are_good() {
    for (header, key, signature) in rfc_examples() {
        let keys = jwks(&[key]).expect("the key of the RFC");
        let token = format!("{header}.{RFC_PAYLOAD}.{signature}");
        let identity = verify(token.as_bytes(), &keys, &rfc_policy(), RFC_NOW).expect(header);
        assert_eq!(identity.user.as_deref(), Some("joe"));
    }
}

#[test]
fn the_example_of_rfc_8037_has_a_good_signature() {
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let keys = jwks(&[key]).expect("the key of the RFC");
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    // Its payload is a text, which is the first thing wrong with it.
    let error =
        verify(token.as_bytes(), &keys, &TokenPolicy::default(), NOW).expect_err("not a token");
    assert_eq!(
        error,
        TokenError::Malformed("its payload is not a JSON object in base64url")
    );
}
