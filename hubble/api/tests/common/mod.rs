//! Protobuf by hand: bytes as the wire format says, without any encoder.

#![allow(dead_code, reason = "each test program uses a part")]

/// A varint.
pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

/// A field with a number as its value.
pub fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

/// A field with bytes as its value: text, or a message.
pub fn bytes(field: u64, value: impl AsRef<[u8]>) -> Vec<u8> {
    let value = value.as_ref();
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// Decodes, encodes and decodes again; nothing may change, and no byte be dropped.
pub fn both_ways<M: prost::Message + Default + PartialEq + std::fmt::Debug>(wire: &[u8]) -> M {
    let message = M::decode(wire).expect("decodes");
    assert_eq!(M::decode(&message.encode_to_vec()[..]).expect("our own"), message);
    assert_eq!(message.encoded_len(), wire.len(), "nothing was dropped");
    message
}
