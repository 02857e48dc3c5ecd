-- A deterministic load of 400,000 rows. Page cache, sorters and temporary tables all live in malloc.
pragma journal_mode = off;
pragma synchronous = off;
pragma temp_store = memory;
pragma cache_size = -32768;
create table item (id integer primary key, class integer, name text, weight real);
insert into item
  with recursive n(i) as (select 1 union all select i + 1 from n where i < 400000)
  select i, (i * 7919) % 1009, 'item ' || ((i * 104729) % 999983), (i % 1000) / 8.0 from n;
create index item_class on item (class, name);
create temp table class as select class as id, count(*) as members, sum(weight) as weight from item group by class;
update item set weight = weight + 1 where class % 97 = 3;
delete from item where id % 11 = 5;
select count(*), sum(weight), min(name), max(name) from item;
select c.id, c.members, round(sum(i.weight), 3) from class c join item i on i.class = c.id
  group by c.id order by sum(i.weight) desc, c.id limit 5;
select substr(name, 1, 6) as head, count(*) from item group by head order by 2 desc, 1 limit 5;
select length(group_concat(name, ',')) from (select name from item where class < 150 order by name);
vacuum;
pragma integrity_check;
