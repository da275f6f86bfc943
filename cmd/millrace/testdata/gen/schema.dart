// Made by `millrace gen dart` from sync.yaml and the tables of the source.
// Do not edit: run it again after a change.
import 'package:powersync/powersync.dart';

const schema = Schema([
  Table('list_members', [
    Column.text('list_id'), // uuid
    Column.text('user_id'),
  ]),
  Table('lists', [
    Column.text('name'),
    Column.text('owner_id'),
    Column.text('created_at'), // timestamp with time zone
  ]),
  Table('my-items', [
    Column.text('price'), // numeric(10,2)
    Column.integer('dear'),
    Column.real('double_weight'),
    Column.text('picture'),
    Column.integer('size\$'),
  ]),
  Table('todos', [
    Column.text('list_id'), // uuid
    Column.text('title'),
    Column.integer('completed'), // boolean
    Column.text('created_by'),
    Column.text('created_at'), // timestamp with time zone
    Column.text('completed_at'), // timestamp with time zone
  ]),
]);
