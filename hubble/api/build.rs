//! Compiles the `.proto` files without `protoc`, and writes JSON mapping and reflection beside them.

#[path = "build/json.rs"]
mod json;
#[path = "build/reflect.rs"]
mod reflect;

use prost::Message as _;
use std::{error::Error, fs, path::PathBuf};

const FILES: [&str; 5] =
    ["flow/flow.proto", "observer/observer.proto", "peer/peer.proto", "recorder/recorder.proto", "relay/relay.proto"];

/// Spoken with old servers only: no server of ours announces it, and nobody prints it as JSON.
const UNSERVED: &str = "recorder";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut set = protox::compile(FILES, ["proto"])?;
    let mut served = set.clone();
    served.file.retain(|file| file.package() != UNSERVED);
    fs::write(out.join("descriptors.bin"), served.encode_to_vec())?;
    fs::write(out.join("json.rs"), json::generate(&served))?;
    fs::write(out.join("reflect.rs"), reflect::generate(&set))?;
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
