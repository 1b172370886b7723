//! Recipes of Maglev tables in use. Frontends with the same backends share one: it is computed once.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::maglev::{Recipe, TableId};

/// Recipes by the tables they make.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recipes {
    by_recipe: BTreeMap<Arc<Recipe>, (TableId, usize)>,
    by_id: BTreeMap<TableId, Arc<Recipe>>,
    last: u64,
}

impl Recipes {
    /// The table of a recipe, which one more service uses from now on.
    pub(crate) fn share(&mut self, recipe: Recipe) -> TableId {
        if let Some((id, users)) = self.by_recipe.get_mut(&recipe) {
            *users += 1;
            return *id;
        }
        self.last += 1;
        let id = TableId::new(self.last).expect("it was raised from 0 or more");
        let recipe = Arc::new(recipe);
        self.by_id.insert(id, recipe.clone());
        self.by_recipe.insert(recipe, (id, 1));
        id
    }
    /// One service less uses the table.
    pub(crate) fn unshare(&mut self, id: TableId) {
        let Some(recipe) = self.by_id.get(&id) else { return };
        let Some((_, users)) = self.by_recipe.get_mut(recipe) else { return };
        *users -= 1;
        if *users == 0 {
            self.by_recipe.remove(recipe);
            self.by_id.remove(&id);
        }
    }
    /// What is in a table.
    pub(crate) fn get(&self, id: TableId) -> Option<&Arc<Recipe>> {
        self.by_id.get(&id)
    }
    /// All of these.
    pub(crate) fn of(&self, ids: impl IntoIterator<Item = TableId>) -> Vec<(TableId, Arc<Recipe>)> {
        ids.into_iter().filter_map(|id| Some((id, self.get(id)?.clone()))).collect()
    }
}
