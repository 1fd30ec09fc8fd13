# lpkg-get.awk: what lpkg-get has to think about, by the task: index, plan, manifest, journal.

function fail(text) { print "lpkg-get: " text >"/dev/stderr"; failed = 1; exit 1 }

# What KEY is in the JSON of an object; of a list, what stands between the brackets.
function value(text, key) {
	if (!match(text, "\"" key "\": ?(\"([^\"\\\\]|\\\\.)*\"|\\[[^]]*|[0-9]+)")) return ""
	text = substr(text, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
	gsub(/^ ?["[]?|"$/, "", text)
	return text
}

function list(text, key, found) {
	text = value(text, key)
	gsub(/[" ]/, "", text)
	return split(text, found, ",")
}

# ---- index: the serials that were seen, with this index's; fails unless it is good

task == "index" && FILENAME ~ /serials$/ {
	split($0, seen, " ")
	if (seen[1] == key && seen[4] + 0 > now) now = seen[4] + 0
	if (seen[1] == key && seen[2] == arch) { last = seen[3]; known = seen[5] } else print
}
task == "index" && FILENAME !~ /serials$/ && FNR == 1 { top = $0 }

function end_index(serial, created) {
	serial = value(top, "serial"); created = value(top, "created")
	if (comment != "index " arch " serial " serial || value(top, "arch") != arch)
		fail(what ": signed as \"" comment "\", and is for " value(top, "arch") ", serial " serial)
	if (serial + 0 < last + 0) fail(what ": an old index; a newer one was seen before")
	if (serial == last && sum != known) fail(what ": serial " serial " had another content before")
	if (created + 0 > now) now = created + 0
	if (value(top, "expires") + 0 < now) fail(what ": expired, unless the clock is wrong; see date")
	print key " " arch " " serial " " created " " sum
}

# ---- plan: lines of what comes (+), what goes (-); files world, history, origins, if they change

# A text that sorts as VERSION does: ~, the end of a part, letters, all else.
function key(version) {
	version = (version ~ /:/ ? "" : "0:") version (version ~ /-./ ? "" : version ~ /-/ ? "0" : "-0")
	version = gensub(/^([0-9]+):(.*)-(.*)$/, "\\1 \\2 \\3 ", 1, version)
	version = gensub(/([^0-9 ]) /, "\\10 ", "g", version)
	gsub(/[-+._:]/, "{&", version); gsub(/~/, "!", version); gsub(/ /, "#", version)
	gsub(/[0-9]+/, "#00000000000000000000000000000000000&", version)
	return gensub(/#[0-9]*([0-9]{36})/, "#\\1", "g", version)
}

function fits(version, operator, wanted, rest) {
	rest = substr(version, length(wanted) + 1, 1)
	if (operator == "~") return index(version, wanted) == 1 && rest !~ /[A-Za-z0-9]/
	if (wanted !~ /-/) sub(/-[^-]*$/, "", version)
	version = key(version); wanted = key(wanted)
	return index(operator, version == wanted ? "=" : version < wanted ? "<" : ">")
}

# Who meets RELATION: the newest of those OFFERED; or of those that will be there, but NOT.
function find(relation, offered, not, name, operator, wanted, ids, count, i, id, found) {
	sub(/^!/, "", relation); name = called_so(relation); wanted = relation
	sub(/^[^<>=~]*[<>=~]*/, "", wanted)
	operator = substr(relation, length(name) + 1, length(relation) - length(name wanted))
	count = split(called[name] provided[name], ids, " ")
	for (i = 1; i <= count; i++) {
		id = ids[i] + 0
		if (offered ? id <= here : final[names[id]] != id || id == not) continue
		if (operator && !fits(versions[id, name], operator, wanted)) continue
		if (!offered || names[id] == name) return id
		if (found && names[found] != names[id])
			fail(relation ": provided by " names[found] " and " names[id] "; name one of them")
		if (!found) found = id
	}
	return found
}

# A package of the repository FROM; the first one that has a name, or provides it, answers for it.
function add(name, version, text, from, sum, count, found, i, pair) {
	if (answers[name] && answers[name] != from) return
	answers[name] = from; names[++id] = name; versions[id, name] = version; said[id] = text
	source[id] = from; called[name] = called[name] " " id
	sums[id] = sum ? sum : "-"
	count = list(text, "provides", found)
	for (i = 1; i <= count; i++) {
		split(found[i], pair, "=")
		if (answers[pair[1]] && answers[pair[1]] != from) continue
		answers[pair[1]] = from; versions[id, pair[1]] = pair[2]
		provided[pair[1]] = provided[pair[1]] " " id
	}
}

function choose(id, found) {
	if (final[names[id]] > here) fail(names[id] ": two versions of it are wanted at once")
	if (list(said[id], "scripts", found)) fail(names[id] " has scripts, which only lpkg runs")
	final[names[id]] = id; chosen[++total] = id
}

function is_newer(id, old, a, b) {
	a = key(versions[id, names[id]]); b = key(versions[old, names[id]])
	return names[id] == names[old] && (a > b || a == b && sums[id] != sums[old])
}

function tell(word, name, old, new) {
	changes = changes "\t" word " " name
	if (old) changes = changes " " versions[old, name] " " sums[old]
	if (new) changes = changes " " versions[new, name] " " sums[new]
}

function called_so(relation) { sub(/[<>=~].*/, "", relation); return relation }

task == "plan" && FILENAME ~ /world$/ { world[called_so($1)] = $1; asked[$1] }
task == "plan" && FILENAME ~ /origins$/ { hash[$1] = $2; origin[$1] = $3 }
task == "plan" && FILENAME ~ /history$/ { past[FNR] = $0; last = FNR; number = $1 }
task == "plan" && FILENAME ~ /repos$/ && split($0, pair, " ") == 2 && !/^#/ {
	urls[pair[1]] = pair[2]
	file = state "/index/" pair[1] ".json"
	if ((getline text <file) > 0) ARGV[ARGC++] = file
}
task == "plan" && FILENAME ~ /installed\// && FNR == 1 {
	add($1, $2, $4, origin[$1], hash[$1]); here = before[$1] = final[$1] = id
}
task == "plan" && FILENAME ~ /json$/ && FNR == 1 {
	if (value($0, "expires") + 0 < now) fail(FILENAME ": expired; update it")
	from = FILENAME; gsub(/.*\/|\.json$/, "", from)
}
task == "plan" && FILENAME ~ /json$/ && FNR > 1 && /^[{]/ && from in urls {
	add(value($0, "name"), value($0, "version"), $0, from, value($0, "sha256"))
}

function end_plan(count, i, j, word, found, new, old, name, kinds, foe, other) {
	count = split(words, word, " ")
	if (word[1] == "upgrade")
		for (name in before) word[++count] = name in world ? world[name] : name
	for (i = 2; i <= count; i++) {
		new = find(word[i], 1); old = find(word[i], 0)
		if (word[1] == "remove") {
			if (!final[word[i]]) fail(word[i] ": not installed")
			delete final[word[i]]; delete world[word[i]]
			continue
		}
		if (!old && !new) fail("no repository offers " word[i] "; lpkg-get update asks again")
		if (new && (!old || is_newer(new, old))) choose(new)
		if (word[1] != "install") continue
		name = names[old ? old : new]
		if (name == called_so(word[i])) world[name] = word[i]
		else if (!(name in world)) world[name] = name
	}
	for (i = 1; i <= total; i++) {
		count = list(said[chosen[i]], "depends", found)
		for (j = 1; j <= count; j++) if (found[j] !~ /^!/ && !find(found[j], 0)) {
			if (!(new = find(found[j], 1)))
				fail(names[chosen[i]] " needs " found[j] ", which no repository offers")
			choose(new)
		}
	}
	for (name in world) if (final[name] && !find(world[name], 0))
		fail(names[final[name]] " is held: " world[name] " is what was asked for")
	split("depends conflicts replaces", kinds, " ")
	for (name in final) for (i = 1; i <= 3; i++) {
		count = final[name] ? list(said[final[name]], kinds[i], found) : 0
		for (j = 1; j <= count; j++) {
			foe = i > 1 || found[j] ~ /^!/
			other = find(found[j], 0, foe ? final[name] : 0)
			if (foe && other) fail(name " and " names[other] " can't be there together")
			if (!foe && !other) fail(name " needs " found[j])
		}
	}
	for (i = 1; i <= total; i++) {
		new = chosen[i]; name = names[new]; old = before[name]
		tell(old ? "=" : "+", name, old, new)
		print "+", name, versions[new, name], value(said[new], "file"), value(said[new], "size"),
			sums[new], urls[source[new]], versions[old, name]
	}
	for (name in before) if (!final[name]) {
		tell("-", name, before[name])
		print "-", name, versions[before[name], name]
	}
	for (name in world) {
		asks[world[name]]
		if (!(world[name] in asked)) tell("asked", world[name])
	}
	for (name in asked) if (!(name in asks)) tell("unasked", name)
	if (!changes) return
	for (i = last > 99 ? last - 98 : 1; i <= last; i++) print past[i] >(fetched "/history")
	print number + 1, now, command changes >(fetched "/history")
	printf "" >(fetched "/world")
	for (name in asks) print name | ("sort >" fetched "/world")
	for (name in final) if (id = final[name])
		print name, sums[id], source[id] | ("sort >" fetched "/origins")
}

# ---- manifest: PATH, put or drop, kind, content (of a directory UID:GID:MODE), what that was, conf
# if it is the user's to change, package; `when` is 0 for before, 1 for after

task == "manifest" && FILENAME ~ /plan$/ { going[$2] = $3 }
task == "manifest" && FILENAME !~ /plan$/ && FNR == 1 {
	name = $1; first = FILENAME ~ /record$/; last = first || !(name in going)
	if (first && (FILENAME != fetched "/" name "/.lpkg/record" || going[name] != $2 ||
			value($4, "arch") != arch))
		fail(FILENAME ": is another package than the index says")
	if (value($4, "alternatives") ~ /\\/) fail(name ": only lpkg understands its alternatives")
	count = list($4, "conffiles", found)
	for (i = 1; i <= count; i++) conffiles[found[i]]
	services = list($4, "services", service)
	count = split($4, part, /[{]"path": ?"/)
	for (when = first; when <= last; when++) {
		for (i = 1; i <= services; i++) serves[when, service[i]]
		for (i = 2; i <= count; i++) {
			path = part[i]; sub(/".*/, "", path); rank = value(part[i], "priority") + 0
			if (best[when, path] != "" && rank <= best[when, path]) continue
			best[when, path] = rank; target[when, path] = "-> " value(part[i], "target")
		}
	}
}
task == "manifest" && FILENAME !~ /plan$/ && FNR > 1 {
	if (first && $1 != "etc/lpkg/keys" && (("/" $1 "/") ~ /\/\.?\.?\// ||
			$1 ~ /^(\.lpkg|etc\/lpkg|var\/lib\/lpkg)\/|\.lpkg-new$/))
		fail(name ": no package may have " $1)
	says = $2 == "dir" ? $4 ":" $5 ":" $3 : $2 == "file" ? $7 : "-> " $6
	paths[$1]
	if (first) fresh[$1]
	for (when = first; when <= last; when++) {
		other = kind[when, $1]
		if (when && other && (other != "dir" || $2 != "dir"))
			fail(name " and " owner[when, $1] " both bring " $1)
		if (other && says == "0:0:0755") continue
		kind[when, $1] = $2; has[when, $1] = says; owner[when, $1] = name
	}
}

function end_manifest(one, pair, path, old, up) {
	for (one in best) if (!kind[one]) {
		split(one, pair, SUBSEP); paths[pair[2]]
		kind[one] = "link"; has[one] = target[one]; owner[one] = "-"
	}
	for (path in paths) if (!kind[1, path])
		for (up = path; sub(/\/[^\/]*$/, "", up);) way[up]
	for (path in paths) {
		old = kind[0, path] ? has[0, path] : "-"
		conf = path ~ /^etc\// || path in conffiles ? "conf" : "-"
		if (!kind[1, path]) print path, "drop", kind[0, path], old, old, conf, "-"
		else if (path in fresh || has[1, path] != old) {
			if (old != "-" && (kind[0, path] == "dir") != (kind[1, path] == "dir"))
				fail(path ": becomes, or was, a directory; lpkg can do that")
			print path, "put", kind[1, path], has[1, path], old, conf, owner[1, path]
		} else if (path in way) print path, "keep", "dir", old, old, conf, "-"
	}
	for (one in serves) if (split(one, pair, SUBSEP) && !((1, pair[2]) in serves))
		print pair[2], "stop", "-", "-", "-", "-", "-"
}

# ---- journal: STEP, PATH, what from, OWNER:MODE, before it; files staged.new and journal.new

function put(path, from, mode, place) {
	place = path; sub(/[^\/]*$/, ".lpkg." token "." ++places, place)
	print from ~ /^->/ ? "ln" : "mv", place, from, mode
	undo = undo "rm\t" place "\n"; journal = journal "mv\t" place "\t" path "\n"
}

function remove(path) { journal = journal "rm\t" path "\n" }

function warn(text) { print "lpkg-get: " text >"/dev/stderr" }

task == "journal" && FILENAME ~ /plan$/ { changed[$2] = $1 }
task == "journal" && FILENAME ~ /enabled$/ { enabled[$1] }
task == "journal" && FILENAME ~ /here$/ {
	for (path = $1; sub(/\/[^\/]*$/, "", path);) if (path in away) {
		warn($1 ": left alone: " path " is no directory here")
		next
	}
	path = $1; says = $4; old = $5; now = $8; from = $3 == "link" ? says : fetched "/" $7 "/" path
	is_dir = now == "dir" || now == "mount"
	if (now == "mount") mounts = mounts "mount\t" path "\n"
	if ($2 == "stop") {
		print "stop", path
		for (one in enabled) if (index(one "@", "etc/rc.d/" path "@") == 1) remove(one)
	} else if ($3 == "dir") {
		if ($2 != "put" && !is_dir && now != "-") away[path]
		else if ($2 == "drop") gone = "rmdir\t" path "\n" gone
		else if ($2 == "keep") next
		else if (now == "-") { print "mkdir", path, "-", says; made = "rmdir\t" path "\n" made }
		else if (!is_dir) fail(path ": no directory, and " $7 " needs one; move it away")
		else if (old != "-" && old != says) journal = journal "dir\t" path "\t" says "\n"
	} else if ($2 == "drop") {
		if (now != old && now != "-") warn(path " was changed here and stays")
		else remove(path)
		if ($10 == "yes") remove(path ".lpkg-new")
	} else if (is_dir) fail(path ": a directory, and " $7 " has none there; move it away")
	else if (now == old || now == says || now == "-" && $6 == "-") {
		put(path, from, $3 == "link" ? "-" : $9)
		if ($10 == "yes") remove(path ".lpkg-new")
	} else if ($6 == "-" && old == "-")
		fail(path ": belongs to no package, and " $7 " has another; move it away")
	else if (old != says) {
		warn(path " was changed here and stays; the new one is " path ".lpkg-new")
		put(path ".lpkg-new", from, "-")
	}
}

function end_journal(name, texts) {
	journal = journal gone
	split("world history origins", texts, " ")
	for (name in changed) if (changed[name] == "+")
		put(state "/installed/" name, fetched "/" name "/.lpkg/record", "-")
	else remove(state "/installed/" name)
	for (name in texts) put(state "/" texts[name], fetched "/" texts[name], "-")
	printf "%s", mounts undo made >(state "/staged.new")
	printf "%srmtree\t%s\n", mounts journal, fetched >(state "/journal.new")
}

END {
	if (failed) exit 1
	if (task == "index") end_index()
	if (task == "plan") end_plan()
	if (task == "record") end_record()
	if (task == "manifest") end_manifest()
	if (task == "journal") end_journal()
}
