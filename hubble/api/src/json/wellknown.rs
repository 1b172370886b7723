//! The JSON forms of protobuf's own types.

use super::{Child, Error, ErrorKind, Mask, Message, Reader, Writer};
use crate::time;
use prost_types::{Any, FieldMask, Timestamp};

impl Message for Timestamp {
    const NAME: &'static str = "google.protobuf.Timestamp";
    fn write(&self, w: &mut Writer) {
        w.string(&time::Rfc3339(self).to_string());
    }
    fn read_field(&mut self, _: &str, _: &mut Reader<'_>) -> Result<bool, Error> {
        Ok(false)
    }
    fn retain(&mut self, _: &Mask) {}
    fn child(_: &str) -> Option<Child> {
        None
    }
    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let text = r.string()?;
        time::parse_rfc3339(&text).filter(time::is_valid).ok_or_else(|| r.error(ErrorKind::Time(text)))
    }
}

/// Shown without its content: this side cannot know every type that was packed.
impl Message for Any {
    const NAME: &'static str = "google.protobuf.Any";
    fn write(&self, w: &mut Writer) {
        w.open();
        w.key("@type");
        w.string(&self.type_url);
        w.close();
    }
    fn read_field(&mut self, key: &str, r: &mut Reader<'_>) -> Result<bool, Error> {
        if key == "@type" {
            self.type_url = r.string()?;
        } else {
            r.skip()?;
        }
        Ok(true)
    }
    fn retain(&mut self, _: &Mask) {}
    fn child(_: &str) -> Option<Child> {
        None
    }
}

impl Message for FieldMask {
    const NAME: &'static str = "google.protobuf.FieldMask";
    fn write(&self, w: &mut Writer) {
        w.string(&self.paths.join(","));
    }
    fn read_field(&mut self, _: &str, _: &mut Reader<'_>) -> Result<bool, Error> {
        Ok(false)
    }
    fn retain(&mut self, _: &Mask) {}
    fn child(_: &str) -> Option<Child> {
        None
    }
    fn read(r: &mut Reader<'_>) -> Result<Self, Error> {
        let text = r.string()?;
        Ok(Self { paths: text.split(',').filter(|path| !path.is_empty()).map(str::to_owned).collect() })
    }
}
