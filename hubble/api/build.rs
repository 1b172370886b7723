//! Compiles the `.proto` files without `protoc`, and writes the JSON mapping beside them.

#[path = "build/json.rs"]
mod json;

use prost::Message as _;
use std::{error::Error, fs, path::PathBuf};

const FILES: [&str; 4] = ["flow/flow.proto", "observer/observer.proto", "peer/peer.proto", "relay/relay.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut set = protox::compile(FILES, ["proto"])?;
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    fs::write(out.join("json.rs"), json::generate(&set))?;
    forget_deprecation(&mut set);
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds(set)?;
    Ok(())
}

/// A drop-in must fill deprecated fields, so a warning at each use would say nothing.
fn forget_deprecation(set: &mut prost_types::FileDescriptorSet) {
    fn message(descriptor: &mut prost_types::DescriptorProto) {
        descriptor.options = None;
        descriptor.field.iter_mut().for_each(|field| field.options = None);
        descriptor.enum_type.iter_mut().for_each(enumeration);
        descriptor.nested_type.iter_mut().for_each(message);
    }
    fn enumeration(descriptor: &mut prost_types::EnumDescriptorProto) {
        descriptor.options = None;
        descriptor.value.iter_mut().for_each(|value| value.options = None);
    }
    for file in &mut set.file {
        file.message_type.iter_mut().for_each(message);
        file.enum_type.iter_mut().for_each(enumeration);
    }
}
