//! Whether a text is a regular expression, at a cost in proportion to its length.
//!
//! Why not simply by translating it: three bytes (`\pL`) stand for hundreds of ranges of characters, so a document full of
//! them would cost thousands of times its size. The syntax tree is as long as the text; of the classes of characters it
//! names, each is translated once.

use alloc::{collections::BTreeSet, string::String};
use regex_syntax::ast::{Ast, ClassSetItem, ClassUnicode, Visitor, parse::Parser, visit};

/// True if the text is an expression and every class of characters it names exists.
pub(super) fn is_expression(text: &str) -> bool {
    let Ok(ast) = Parser::new().parse(text) else { return false };
    visit(&ast, Classes { text, known: BTreeSet::new() }).is_ok()
}

/// The classes met so far, as they are compared: without case and separators, which say nothing in their names.
struct Classes<'t> {
    text: &'t str,
    known: BTreeSet<String>,
}

impl Classes<'_> {
    fn exists(&mut self, class: &ClassUnicode) -> Result<(), ()> {
        let literal = self.text.get(class.span.start.offset..class.span.end.offset).ok_or(())?;
        let name = literal.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).map(|c| c.to_ascii_lowercase()).collect();
        if self.known.contains(&name) {
            return Ok(());
        }
        regex_syntax::parse(literal).map_err(|_| ())?;
        self.known.insert(name);
        Ok(())
    }
}

impl Visitor for Classes<'_> {
    type Output = ();
    type Err = ();

    fn finish(self) -> Result<(), ()> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), ()> {
        match ast {
            Ast::ClassUnicode(class) => self.exists(class),
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), ()> {
        match item {
            ClassSetItem::Unicode(class) => self.exists(class),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_expression;

    #[test]
    fn an_expression_is_told_from_what_is_none() {
        for text in [
            "",
            "/api/.*",
            "\\pL+",
            "[\\p{Greek}\\P{ greek }a-z]",
            "(?i)get|post",
            "\\d{2,3}",
            "\\p{Lu}\\p{LU}\\p{l u}",
        ] {
            assert!(is_expression(text), "{text}");
        }
        for text in ["(", "[z-a]", "\\pX", "[\\p{Klingon}]", "a{3,2}", "*", "\\p{Greek", "(?<n>a)(?<n>b)"] {
            assert!(!is_expression(text), "{text}");
            assert!(regex_syntax::parse(text).is_err(), "{text}");
        }
        bolero::check!().with_iterations(2000).with_max_len(64).for_each(|bytes| {
            let text = alloc::string::String::from_utf8_lossy(bytes);
            // What can be translated is an expression, and what is one and cannot be is about bytes that are no characters.
            let translated = regex_syntax::parse(&text);
            let bytes_only = translated.as_ref().is_err_and(|why| {
                matches!(why, regex_syntax::Error::Translate(e) if *e.kind() == regex_syntax::hir::ErrorKind::InvalidUtf8
                    || *e.kind() == regex_syntax::hir::ErrorKind::UnicodeNotAllowed)
            });
            assert_eq!(is_expression(&text), translated.is_ok() || bytes_only, "{text:?}: {translated:?}");
        });
    }
}
