// Entities whose sentiment is requested: reading the field, and the rows of a text for each of them.

const SEPARATOR = /[,，、;；\n]/;

/** The entities in a text separated by commas; blank ones and repetitions, also in other case, are dropped. */
export function parseEntities(text) {
  const byName = new Map();
  for (const entity of text.split(SEPARATOR).map((part) => part.trim().replace(/\s+/g, " "))) {
    const name = entity.toLowerCase();
    if (/[^\s\p{C}]/u.test(entity) && !byName.has(name)) byName.set(name, entity);
  }
  return [...byName.values()];
}

/** One row for each text and each entity; without entities the rows themselves. */
export function rowsOfEntities(rows, entities) {
  if (!entities.length) return rows;
  return rows.flatMap((row) => entities.map((target) => ({ ...row, target })));
}

/** Rows by text: the rows that follow each other and share a line. */
export function groupByText(rows) {
  const groups = [];
  for (const row of rows) {
    if (groups.at(-1)?.[0].line === row.line) groups.at(-1).push(row);
    else groups.push([row]);
  }
  return groups;
}
