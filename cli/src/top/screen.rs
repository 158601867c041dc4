//! The view that the user has chosen: the page, its order, the filter and the position; and the
//! keys that change it. Pure.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::listing::{ColumnSpec, ListedRow, Listing, RowContext};
use super::rows::{AgentRow, FrameworkRow, RoleRow, TaskRow};
use super::state::{ClusterState, Lists};
use crate::args::TopPage;
use crate::output::is_hidden;

/// Maximum length of a filter, in characters.
const MAX_FILTER: usize = 64;
/// Time for which the order of rows stays while only the data changes, in milliseconds.
const KEEP_ORDER_MS: u64 = 1_000;

/// The pages in the order of their keys.
pub(super) const PAGES: [TopPage; 5] = [
    TopPage::Cluster,
    TopPage::Agents,
    TopPage::Tasks,
    TopPage::Frameworks,
    TopPage::Roles,
];

/// The time of a frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FrameTime {
    /// Wall time, in milliseconds of the Unix epoch.
    pub(super) wall_ms: i64,
    /// Milliseconds of a clock that is never set back.
    pub(super) clock_ms: u64,
}

/// The effect of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum KeyEffect {
    Ignored,
    Changed,
    Leave,
}

/// The version of what was arranged last.
#[derive(Debug, Clone, Copy)]
struct Arranged {
    changes: u64,
    clock_ms: u64,
}

/// The view of one user.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) page: TopPage,
    pub(super) filter: String,
    pub(super) is_editing: bool,
    pub(super) shows_help: bool,
    /// The position on the page of the cluster.
    pub(super) cluster_offset: usize,
    agents: Listing,
    tasks: Listing,
    frameworks: Listing,
    roles: Listing,
    pub(super) role_rows: Vec<RoleRow>,
    /// The number of rows that the last frame had place for.
    height: usize,
    arranged: Option<Arranged>,
}

impl Screen {
    pub(super) fn new(page: TopPage) -> Self {
        Self {
            page,
            filter: String::new(),
            is_editing: false,
            shows_help: false,
            cluster_offset: 0,
            agents: Listing::new::<AgentRow>(),
            tasks: Listing::new::<TaskRow>(),
            frameworks: Listing::new::<FrameworkRow>(),
            roles: Listing::new::<RoleRow>(),
            role_rows: Vec::new(),
            height: 0,
            arranged: None,
        }
    }

    /// Returns the list of the present page; the page of the cluster has none.
    pub(super) fn listing(&self) -> Option<(&Listing, &'static [ColumnSpec])> {
        match self.page {
            TopPage::Cluster => None,
            TopPage::Agents => Some((&self.agents, AgentRow::COLUMNS)),
            TopPage::Tasks => Some((&self.tasks, TaskRow::COLUMNS)),
            TopPage::Frameworks => Some((&self.frameworks, FrameworkRow::COLUMNS)),
            TopPage::Roles => Some((&self.roles, RoleRow::COLUMNS)),
        }
    }

    /// Returns the number of rows that the last frame had place for.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    fn listing_mut(&mut self) -> Option<&mut Listing> {
        match self.page {
            TopPage::Cluster => None,
            TopPage::Agents => Some(&mut self.agents),
            TopPage::Tasks => Some(&mut self.tasks),
            TopPage::Frameworks => Some(&mut self.frameworks),
            TopPage::Roles => Some(&mut self.roles),
        }
    }

    /// Selects and sorts the rows of the page if the choice has changed, or if the data has and the
    /// order is old enough. Returns the places of the rows that `height` lines show.
    pub(super) fn arrange(
        &mut self,
        context: &RowContext<'_>,
        time: FrameTime,
        height: usize,
    ) -> Vec<u32> {
        self.height = height;
        let lists = &context.state.lists;
        let changes = context.state.changes();
        let is_empty = self.listing().is_none_or(|(list, _)| list.order.is_empty());
        let is_due = self.arranged.is_none_or(|arranged| {
            let age = time.clock_ms.saturating_sub(arranged.clock_ms);
            arranged.changes != changes && (is_empty || age >= KEEP_ORDER_MS)
        });
        if is_due {
            let filter = self.filter.to_ascii_lowercase();
            match self.page {
                TopPage::Cluster => {}
                TopPage::Agents => self.agents.arrange(lists.agents.iter(), &filter, context),
                TopPage::Tasks => self.tasks.arrange(lists.tasks.iter(), &filter, context),
                TopPage::Frameworks => {
                    let rows = lists.frameworks.iter();
                    self.frameworks.arrange(rows, &filter, context);
                }
                TopPage::Roles => {
                    self.role_rows = lists.roles();
                    let rows = (0..).zip(&self.role_rows);
                    self.roles.arrange(rows, &filter, context);
                }
            }
            self.arranged = Some(Arranged {
                changes,
                clock_ms: time.clock_ms,
            });
        } else {
            self.drop_ended(lists);
        }
        let listing = self.listing_mut();
        listing.map_or_else(Vec::new, |listing| listing.visible(height).to_vec())
    }

    /// Leaves out the rows that no longer exist.
    fn drop_ended(&mut self, lists: &Lists) {
        match self.page {
            TopPage::Cluster | TopPage::Roles => {}
            TopPage::Agents => self.agents.retain(|place| lists.agents.at(place).is_some()),
            TopPage::Tasks => self.tasks.retain(|place| lists.tasks.at(place).is_some()),
            TopPage::Frameworks => {
                let frameworks = &lists.frameworks;
                self.frameworks
                    .retain(|place| frameworks.at(place).is_some());
            }
        }
    }

    /// Returns the visible frameworks that take offers.
    pub(super) fn waiting_frameworks(&self, state: &ClusterState) -> Vec<String> {
        if self.page != TopPage::Frameworks {
            return Vec::new();
        }
        let order = self.frameworks.order.iter();
        let visible = order.skip(self.frameworks.offset).take(self.height);
        let rows = visible.filter_map(|place| state.lists.frameworks.at(*place));
        let waiting = rows.filter(|row| row.roles.iter().any(|role| row.waits_in(role)));
        waiting.map(|row| row.id.clone()).collect()
    }

    /// Applies a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> KeyEffect {
        if key.kind == KeyEventKind::Release {
            return KeyEffect::Ignored;
        }
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        if has_control && matches!(key.code, KeyCode::Char('c' | 'C')) {
            return KeyEffect::Leave;
        }
        if self.is_editing {
            return self.edit(key.code, has_control);
        }
        if has_control || key.modifiers.contains(KeyModifiers::ALT) {
            return KeyEffect::Ignored;
        }
        match key.code {
            KeyCode::Char('q' | 'Q') => return KeyEffect::Leave,
            KeyCode::Char('?' | 'h') => self.shows_help = !self.shows_help,
            KeyCode::Esc if self.shows_help => self.shows_help = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.arranged = None;
            }
            KeyCode::Char('/') => self.is_editing = true,
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(PAGES.len() - 1),
            KeyCode::Char(digit @ '1'..='5') => {
                self.page = PAGES[digit as usize - '1' as usize];
                self.arranged = None;
                self.shows_help = false;
            }
            KeyCode::Char('>') | KeyCode::Right => self.sort_by_next(1),
            KeyCode::Char('<') | KeyCode::Left => self.sort_by_next(-1),
            KeyCode::Char('r') => {
                if let Some(listing) = self.listing_mut() {
                    listing.descending = !listing.descending;
                }
                self.arranged = None;
            }
            // The keys cover the list.
            _ if self.shows_help => return KeyEffect::Ignored,
            other => return self.scroll(other),
        }
        KeyEffect::Changed
    }

    /// Applies a key while the filter is being written.
    fn edit(&mut self, key: KeyCode, has_control: bool) -> KeyEffect {
        match key {
            KeyCode::Enter => self.is_editing = false,
            KeyCode::Esc => {
                self.filter.clear();
                self.is_editing = false;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char('u') if has_control => self.filter.clear(),
            KeyCode::Char(letter)
                if !has_control
                    && !is_hidden(letter)
                    && self.filter.chars().count() < MAX_FILTER =>
            {
                self.filter.push(letter);
            }
            _ => return KeyEffect::Ignored,
        }
        self.arranged = None;
        if let Some(listing) = self.listing_mut() {
            listing.offset = 0;
        }
        KeyEffect::Changed
    }

    /// Adds pasted text to the filter; outside of it, it is no keys.
    pub(super) fn paste(&mut self, text: &str) -> KeyEffect {
        if !self.is_editing {
            return KeyEffect::Ignored;
        }
        let letters = text.chars();
        let pasted = letters.map(|letter| self.edit(KeyCode::Char(letter), false));
        pasted.max().unwrap_or(KeyEffect::Ignored)
    }

    fn turn(&mut self, by: usize) {
        let at = PAGES.iter().position(|page| *page == self.page);
        self.page = PAGES[(at.unwrap_or(0) + by) % PAGES.len()];
        self.arranged = None;
        self.shows_help = false;
    }

    fn sort_by_next(&mut self, by: isize) {
        let columns = self.listing().map_or(0, |(_, columns)| columns.len());
        if let Some(listing) = self.listing_mut() {
            let next = listing.sort.saturating_add_signed(by);
            listing.sort = next.min(columns.saturating_sub(1));
        }
        self.arranged = None;
    }

    fn scroll(&mut self, key: KeyCode) -> KeyEffect {
        let page = self.height.saturating_sub(1).max(1);
        let offset = match self.page {
            TopPage::Cluster => &mut self.cluster_offset,
            TopPage::Agents => &mut self.agents.offset,
            TopPage::Tasks => &mut self.tasks.offset,
            TopPage::Frameworks => &mut self.frameworks.offset,
            TopPage::Roles => &mut self.roles.offset,
        };
        // Beyond the end, drawing moves it back.
        *offset = match key {
            KeyCode::Down | KeyCode::Char('j') => offset.saturating_add(1),
            KeyCode::Up | KeyCode::Char('k') => offset.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => offset.saturating_add(page),
            KeyCode::PageUp => offset.saturating_sub(page),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => usize::MAX,
            _ => return KeyEffect::Ignored,
        };
        KeyEffect::Changed
    }
}
