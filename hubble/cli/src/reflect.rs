//! `hubble reflect`: the protobuf files a server says it speaks, as JSON.

use crate::{Failure, Io, remote, settings::Settings};
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tokio_stream::StreamExt as _;
use tonic::Status;
use tonic_reflection::pb::v1alpha as pb;
use tonic_reflection::pb::v1alpha::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

// The descriptor messages of the protobuf library.
use hubble_api::descriptor::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};

type Client = ServerReflectionClient<remote::Remote>;

async fn ask(client: &mut Client, request: MessageRequest) -> Result<MessageResponse, Failure> {
    let failed = |status: Status| Failure(format!("failed to reflect: {}", remote::show(&status)));
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let mut answers = client.server_reflection_info(tokio_stream::once(request)).await.map_err(failed)?.into_inner();
    let answer = answers.next().await.transpose().map_err(failed)?;
    match answer.and_then(|answer| answer.message_response) {
        Some(MessageResponse::ErrorResponse(pb::ErrorResponse { error_message, .. })) => {
            Err(Failure(format!("failed to reflect: {error_message}")))
        }
        Some(answer) => Ok(answer),
        None => Err(Failure("failed to reflect: the server answered nothing".into())),
    }
}

/// `hubble reflect`.
pub async fn run(settings: &Settings, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut client = ServerReflectionClient::new(remote::connect(settings)?);
    let strange = || Failure("failed to reflect: the server answered something else".into());
    let MessageResponse::ListServicesResponse(list) =
        ask(&mut client, MessageRequest::ListServices(String::new())).await?
    else {
        return Err(strange());
    };
    let mut files = BTreeMap::new();
    for service in &list.service {
        let request = MessageRequest::FileContainingSymbol(service.name.clone());
        let MessageResponse::FileDescriptorResponse(found) = ask(&mut client, request).await? else {
            return Err(strange());
        };
        for bytes in &found.file_descriptor_proto {
            let file = FileDescriptorProto::decode(&bytes[..])
                .map_err(|error| Failure(format!("failed to reflect: {}: {error}", service.name)))?;
            files.insert(file.name().to_owned(), file);
        }
    }
    // What those files build on.
    loop {
        let known: BTreeSet<&str> = files.keys().map(String::as_str).collect();
        let missing = files.values().flat_map(|file| &file.dependency).find(|name| !known.contains(name.as_str()));
        let Some(name) = missing.cloned() else { break };
        let MessageResponse::FileDescriptorResponse(found) =
            ask(&mut client, MessageRequest::FileByFilename(name.clone())).await?
        else {
            return Err(strange());
        };
        let before = files.len();
        for bytes in &found.file_descriptor_proto {
            let file = FileDescriptorProto::decode(&bytes[..])
                .map_err(|error| Failure(format!("failed to reflect: {name}: {error}")))?;
            files.insert(file.name().to_owned(), file);
        }
        if files.len() == before {
            return Err(strange());
        }
    }
    let all: Vec<Value> = files.values().map(file).collect();
    writeln!(io.out, "{}", json!({ "file": all }))?;
    Ok(())
}

fn file(file: &FileDescriptorProto) -> Value {
    let services: Vec<Value> = file
        .service
        .iter()
        .map(|service| {
            let methods: Vec<Value> = service
                .method
                .iter()
                .map(|method| {
                    json!({
                        "name": method.name(),
                        "input_type": method.input_type(),
                        "output_type": method.output_type(),
                        "client_streaming": method.client_streaming(),
                        "server_streaming": method.server_streaming(),
                    })
                })
                .collect();
            json!({ "name": service.name(), "method": methods })
        })
        .collect();
    json!({
        "name": file.name(),
        "package": file.package(),
        "dependency": file.dependency,
        "message_type": file.message_type.iter().map(message).collect::<Vec<_>>(),
        "enum_type": file.enum_type.iter().map(enumeration).collect::<Vec<_>>(),
        "service": services,
        "syntax": file.syntax(),
    })
}

fn message(of: &DescriptorProto) -> Value {
    json!({
        "name": of.name(),
        "field": of.field.iter().map(field).collect::<Vec<_>>(),
        "nested_type": of.nested_type.iter().map(message).collect::<Vec<_>>(),
        "enum_type": of.enum_type.iter().map(enumeration).collect::<Vec<_>>(),
        "oneof_decl": of.oneof_decl.iter().map(|union| json!({ "name": union.name() })).collect::<Vec<_>>(),
    })
}

fn field(of: &FieldDescriptorProto) -> Value {
    let mut object = json!({
        "name": of.name(),
        "number": of.number(),
        "label": of.label().as_str_name(),
        "type": of.r#type().as_str_name(),
    });
    if let Some(name) = &of.type_name {
        object["type_name"] = json!(name);
    }
    if let Some(union) = of.oneof_index {
        object["oneof_index"] = json!(union);
    }
    object
}

fn enumeration(of: &EnumDescriptorProto) -> Value {
    let values: Vec<Value> =
        of.value.iter().map(|value| json!({ "name": value.name(), "number": value.number() })).collect();
    json!({ "name": of.name(), "value": values })
}
